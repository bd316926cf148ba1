-- For readers who search. A tsvector holds 1 MB at most, so of a very long text only the beginning is found.
CREATE INDEX messages_by_words ON messages USING gin (to_tsvector('simple', left(text, 100000))) WHERE NOT deleted;
