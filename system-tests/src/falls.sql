-- Notes every step backwards.
CREATE TABLE fell (what text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());

CREATE FUNCTION note_fall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fell (what) VALUES (TG_TABLE_NAME || ' ' || TG_OP || ' ' || OLD::text);
    RETURN NULL;
END $$;

CREATE TRIGGER fell AFTER UPDATE ON messages FOR EACH ROW WHEN (NEW.version < OLD.version) EXECUTE FUNCTION note_fall();
CREATE TRIGGER went AFTER DELETE ON messages FOR EACH ROW EXECUTE FUNCTION note_fall();
CREATE TRIGGER fell AFTER UPDATE ON chats FOR EACH ROW WHEN (NEW.version < OLD.version) EXECUTE FUNCTION note_fall();
CREATE TRIGGER went AFTER DELETE ON chats FOR EACH ROW EXECUTE FUNCTION note_fall();
CREATE TRIGGER fell AFTER UPDATE ON progress FOR EACH ROW WHEN (NEW.next_offset < OLD.next_offset)
    EXECUTE FUNCTION note_fall();
CREATE TRIGGER went AFTER DELETE ON progress FOR EACH ROW EXECUTE FUNCTION note_fall();
CREATE TRIGGER went AFTER DELETE ON message_versions FOR EACH ROW EXECUTE FUNCTION note_fall();
