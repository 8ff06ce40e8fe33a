-- A collection can hold vectors of two spaces: those that searches read, and
-- those it is moving to or has moved from. A passage belongs to one space, since
-- each model reads another number of tokens and so cuts documents elsewhere;
-- going over to another space is one pointer (collections.space_id) that turns.

CREATE TABLE collection_spaces (
    collection_id uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    tenant_id     uuid NOT NULL REFERENCES tenants,
    space_id      text NOT NULL REFERENCES embedding_spaces,
    -- live: searches read it. filling: not every document has its passages yet.
    -- kept: was live, still written to, to go back to. dropping: being deleted.
    state         text NOT NULL CHECK (state IN ('live', 'filling', 'kept', 'dropping')),
    -- What does it.
    job_id        uuid REFERENCES jobs ON DELETE SET NULL,
    -- When it came into this state.
    since         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, tenant_id, space_id)
);
CREATE UNIQUE INDEX collection_spaces_live ON collection_spaces (collection_id) WHERE state = 'live';
CREATE UNIQUE INDEX collection_spaces_other ON collection_spaces (collection_id)
    WHERE state IN ('filling', 'kept');

INSERT INTO collection_spaces (collection_id, tenant_id, space_id, state)
    SELECT id, tenant_id, space_id, 'live' FROM collections;

-- Replicas of the previous version make collections without knowing of this
-- table, so the row comes from here, with the owner's rights.
CREATE FUNCTION add_live_space() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO collection_spaces (collection_id, tenant_id, space_id, state)
        VALUES (NEW.id, NEW.tenant_id, NEW.space_id, 'live');
    RETURN NULL;
END
$$;
CREATE TRIGGER collections_live_space AFTER INSERT ON collections
    FOR EACH ROW EXECUTE FUNCTION add_live_space();

-- What a collection points at, it holds. At the end of the transaction: the two refer to each other.
ALTER TABLE collections ADD FOREIGN KEY (id, tenant_id, space_id)
    REFERENCES collection_spaces (collection_id, tenant_id, space_id) DEFERRABLE INITIALLY DEFERRED;

-- A passage can only be of a space that its collection holds.
ALTER TABLE passages
    DROP CONSTRAINT passages_collection_id_tenant_id_space_id_fkey,
    DROP CONSTRAINT passages_document_id_ordinal_key,
    ADD FOREIGN KEY (collection_id, tenant_id, space_id)
        REFERENCES collection_spaces (collection_id, tenant_id, space_id) ON DELETE CASCADE,
    ADD UNIQUE (document_id, space_id, ordinal);

-- Metadata is changed by one statement on documents and passages, which does not
-- see passages of the second space that are added while it waits for the document.
CREATE FUNCTION copy_metadata() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE passages SET metadata = NEW.metadata
        WHERE document_id = NEW.id AND metadata IS DISTINCT FROM NEW.metadata;
    RETURN NULL;
END
$$;
CREATE TRIGGER documents_metadata AFTER UPDATE OF metadata ON documents
    FOR EACH ROW EXECUTE FUNCTION copy_metadata();
