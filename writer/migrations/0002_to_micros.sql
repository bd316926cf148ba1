-- Microseconds since the Unix epoch to a time, exactly: to_timestamp() goes through a float, and so does a large
-- number times an interval.
CREATE FUNCTION to_micros(micros bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN timestamptz '1970-01-01 00:00:00+00'
       + (micros / 1000000) * interval '1 second' + (micros % 1000000) * interval '1 microsecond';

-- And back.
CREATE FUNCTION from_micros(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (extract(epoch FROM moment) * 1000000)::bigint;
