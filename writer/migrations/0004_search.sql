-- Indexing what is there already may take long.
SET LOCAL statement_timeout = 0;

-- For readers who search. A tsvector holds 1 MB at most, so of a very long text only the beginning is found.
-- What is written waits in a list (16 MB) that is merged into the index when it is full, or by vacuum: merging a few
-- words at each commit would cost the writer more than everything else.
CREATE INDEX messages_by_words ON messages USING gin (to_tsvector('simple', left(text, 100000)))
    WITH (fastupdate = on, gin_pending_list_limit = 16384)
    WHERE NOT deleted;
