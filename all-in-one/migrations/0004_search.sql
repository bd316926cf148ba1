CREATE VIRTUAL TABLE message_words USING fts5 (text, content = 'messages', content_rowid = 'rowid');

CREATE TRIGGER message_words_insert AFTER INSERT ON messages BEGIN
    INSERT INTO message_words (rowid, text) VALUES (new.rowid, new.text);
END;
CREATE TRIGGER message_words_delete AFTER DELETE ON messages BEGIN
    INSERT INTO message_words (message_words, rowid, text) VALUES ('delete', old.rowid, old.text);
END;
CREATE TRIGGER message_words_update AFTER UPDATE OF text ON messages BEGIN
    INSERT INTO message_words (message_words, rowid, text) VALUES ('delete', old.rowid, old.text);
    INSERT INTO message_words (rowid, text) VALUES (new.rowid, new.text);
END;

INSERT INTO message_words (message_words) VALUES ('rebuild');
