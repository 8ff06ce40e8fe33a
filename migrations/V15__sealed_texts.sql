-- Texts of documents, sealed where the gateways have a key that the database does not have.
-- A row is plain (`sealed_by` is null) or sealed (what `sealed_by` opens); both may stand side by side.

CREATE TABLE encryption_keys (
    id       integer PRIMARY KEY CHECK (id > 0),
    -- Something known, sealed with the key: tells another key under the same id before it is used.
    proof    bytea NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now()
);

-- Checks and references are not validated: no row that is there has anything in the new columns, and
-- looking would take as long as reading the tables. They hold for all that is written from now on.
ALTER TABLE documents
    ALTER COLUMN content DROP NOT NULL,
    ADD COLUMN sealed_by integer,
    ADD COLUMN sealed_content bytea,
    -- `image` holds the one or the other.
    ADD CONSTRAINT documents_sealed
        CHECK (num_nonnulls(content, sealed_content) = 1 AND (sealed_by IS NULL) = (sealed_content IS NULL)) NOT VALID,
    ADD CONSTRAINT documents_sealed_by_fkey FOREIGN KEY (sealed_by) REFERENCES encryption_keys NOT VALID;
-- What is sealed cannot be made smaller.
ALTER TABLE documents ALTER COLUMN sealed_content SET STORAGE EXTERNAL;

-- Apart from the passages, so that another key changes no row of theirs: each of its vectors would be
-- put into the indexes again. A passage without content has a row here.
ALTER TABLE passages ALTER COLUMN content DROP NOT NULL;
CREATE TABLE sealed_passages (
    passage_id           uuid PRIMARY KEY REFERENCES passages ON DELETE CASCADE,
    tenant_id            uuid NOT NULL,
    sealed_by            integer NOT NULL REFERENCES encryption_keys,
    sealed_heading       bytea,
    sealed_content       bytea NOT NULL,
    -- The hash of a short text tells it to whoever can guess.
    sealed_embedded_hash bytea
);
ALTER TABLE sealed_passages ALTER COLUMN sealed_content SET STORAGE EXTERNAL;
SELECT keep_tenants_apart('sealed_passages');

-- `payload` and `result`, and `outcome`, hold the one or the other.
ALTER TABLE jobs
    ADD COLUMN sealed_by integer,
    ADD CONSTRAINT jobs_sealed_by_fkey FOREIGN KEY (sealed_by) REFERENCES encryption_keys NOT VALID;
ALTER TABLE job_steps
    ADD COLUMN sealed_by integer,
    ADD CONSTRAINT job_steps_sealed_by_fkey FOREIGN KEY (sealed_by) REFERENCES encryption_keys NOT VALID;

ALTER TABLE answers
    ADD COLUMN sealed_by integer,
    ADD COLUMN sealed_question bytea,
    ADD COLUMN sealed_answer bytea,
    ADD COLUMN sealed_comment bytea,
    ADD CONSTRAINT answers_sealed CHECK (
        CASE WHEN sealed_by IS NULL THEN num_nonnulls(sealed_question, sealed_answer, sealed_comment) = 0
             ELSE num_nonnulls(question, answer, comment) = 0 END) NOT VALID,
    ADD CONSTRAINT answers_sealed_by_fkey FOREIGN KEY (sealed_by) REFERENCES encryption_keys NOT VALID;

-- Whoever writes the same text under another key says so (`ragway.resealing`): nothing changes for anybody.
-- The same text sealed twice is never the same bytes.
DROP TRIGGER documents_raise_version ON documents;
CREATE TRIGGER documents_raise_version
    BEFORE UPDATE OF external_id, content_hash, title, source, format, content, sealed_content, metadata, image
    ON documents FOR EACH ROW
    WHEN (current_setting('ragway.resealing', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION raise_document_version();

DROP TRIGGER documents_version ON documents;
CREATE CONSTRAINT TRIGGER documents_version AFTER INSERT OR UPDATE OR DELETE ON documents
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (current_setting('ragway.resealing', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION raise_collection_version();

CREATE OR REPLACE FUNCTION blank_answers() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE answers SET question = NULL, answer = NULL, comment = NULL,
                       sealed_by = NULL, sealed_question = NULL, sealed_answer = NULL, sealed_comment = NULL
        WHERE id IN (SELECT answer_id FROM answer_citations WHERE document_id = OLD.id)
          AND num_nonnulls(question, answer, comment, sealed_question, sealed_answer, sealed_comment) > 0;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER documents_blank_answers_of_changed ON documents;
CREATE TRIGGER documents_blank_answers_of_changed BEFORE UPDATE OF content, sealed_content ON documents
    FOR EACH ROW
    WHEN ((OLD.content, OLD.sealed_content) IS DISTINCT FROM (NEW.content, NEW.sealed_content)
          AND current_setting('ragway.resealing', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION blank_answers();

DROP TRIGGER passages_outdated_terms ON passages;
CREATE TRIGGER passages_outdated_terms AFTER UPDATE OF content ON passages
    FOR EACH ROW
    WHEN (OLD.content IS DISTINCT FROM NEW.content
          AND current_setting('ragway.resealing', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION remove_outdated_terms();

-- A collection may do without a lexical index, whose words are readable.
ALTER TABLE collections ADD COLUMN lexical boolean NOT NULL DEFAULT true;
CREATE OR REPLACE FUNCTION add_lexical_index() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO lexical_indexes (tenant_id, collection_id, space_id, ready)
        SELECT NEW.tenant_id, NEW.collection_id, NEW.space_id, true
        FROM collections WHERE id = NEW.collection_id AND lexical;
    RETURN NULL;
END
$$;
