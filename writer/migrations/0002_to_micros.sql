-- Microseconds since the Unix epoch to a time, exactly: to_timestamp() goes through a float.
CREATE FUNCTION to_micros(micros bigint) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN timestamptz '1970-01-01 00:00:00+00' + micros * interval '1 microsecond';

-- And back.
CREATE FUNCTION from_micros(moment timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (extract(epoch FROM moment) * 1000000)::bigint;
