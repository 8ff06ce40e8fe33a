-- How often a document was changed, and what of a changed one need not be embedded again.

ALTER TABLE documents
    -- Grows with each change; replicas of the previous version do not know of it, so a trigger raises it.
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    -- SHA-256 of the file as it was handed in: the same file is the same document, even when
    -- it is read otherwise than before. Null: stored before this was kept.
    ADD COLUMN file_hash bytea;
CREATE INDEX documents_file ON documents (collection_id, file_hash) WHERE file_hash IS NOT NULL;

CREATE FUNCTION raise_document_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$$;
CREATE TRIGGER documents_raise_version
    BEFORE UPDATE OF external_id, content_hash, title, source, format, content, metadata, image ON documents
    FOR EACH ROW EXECUTE FUNCTION raise_document_version();

-- SHA-256 of the text that was embedded: the passage under its heading or title. Null: not
-- known (stored before this was kept), or no text.
ALTER TABLE passages ADD COLUMN embedded_hash bytea;
