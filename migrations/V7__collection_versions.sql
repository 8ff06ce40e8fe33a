-- A number for each collection that rises with every change of its documents and
-- of the space that searches read, in the transaction that makes the change. What
-- was made from a collection is still true while its number is the same.

CREATE TABLE collection_versions (
    collection_id uuid PRIMARY KEY REFERENCES collections ON DELETE CASCADE,
    version       bigint NOT NULL DEFAULT 0
);
INSERT INTO collection_versions (collection_id) SELECT id FROM collections;

-- Triggers, since replicas of the previous version do not know of this table.
CREATE FUNCTION add_collection_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO collection_versions (collection_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER collections_version AFTER INSERT ON collections
    FOR EACH ROW EXECUTE FUNCTION add_collection_version();

CREATE FUNCTION raise_collection_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'collections' THEN
        UPDATE collection_versions SET version = version + 1 WHERE collection_id = NEW.id;
    ELSIF TG_OP = 'DELETE' THEN
        UPDATE collection_versions SET version = version + 1 WHERE collection_id = OLD.collection_id;
    ELSE
        UPDATE collection_versions SET version = version + 1 WHERE collection_id = NEW.collection_id;
    END IF;
    RETURN NULL;
END
$$;
-- At the end of the transaction: the row is locked only while it commits, so that
-- documents of one collection are still stored side by side.
CREATE CONSTRAINT TRIGGER documents_version AFTER INSERT OR UPDATE OR DELETE ON documents
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise_collection_version();
CREATE CONSTRAINT TRIGGER collections_space_version AFTER UPDATE OF space_id ON collections
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION raise_collection_version();
