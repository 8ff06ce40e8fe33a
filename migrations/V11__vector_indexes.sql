-- What a collection has of its own to be searched faster. Without a row its
-- searches use the index of its space, shared by all collections of that space.

CREATE TABLE collection_indexes (
    collection_id   uuid NOT NULL,
    tenant_id       uuid NOT NULL,
    space_id        text NOT NULL,
    -- exact: none, every search compares all vectors.
    kind            text NOT NULL CHECK (kind IN ('hnsw', 'halfvec', 'binary', 'exact')),
    m               integer NOT NULL,
    ef_construction integer NOT NULL,
    ef_search       integer NOT NULL,
    -- An index without a row is a leftover.
    index_name      text UNIQUE,
    built_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, tenant_id, space_id),
    CHECK ((kind = 'exact') = (index_name IS NULL)),
    FOREIGN KEY (collection_id, tenant_id, space_id)
        REFERENCES collection_spaces (collection_id, tenant_id, space_id) ON DELETE CASCADE
);

-- Keys of the metadata whose order comparisons have an index.
CREATE TABLE collection_fields (
    collection_id uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    tenant_id     uuid NOT NULL REFERENCES tenants,
    key           text NOT NULL,
    index_name    text NOT NULL UNIQUE,
    PRIMARY KEY (collection_id, key)
);

-- A search counts the passages of a collection, up to a limit, in this index alone.
CREATE INDEX passages_place ON passages (collection_id, tenant_id, space_id);
DROP INDEX passages_collection;

-- Registers a space and builds its index, where that takes no time: building it
-- here locks writers out. Over many passages it is left to `ragway index rebuild`,
-- which builds beside them; until then searches are exact. Returns whether the
-- space has the index that its dimension allows.
DROP FUNCTION register_embedding_space(text, text, integer);
CREATE FUNCTION register_embedding_space(space text, space_model text, space_dimension integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    index_name text := 'passages_hnsw_' || left(md5(space), 16);
    vector_type text := CASE WHEN space_dimension <= 2000 THEN 'vector' ELSE 'halfvec' END;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('ragway.space.' || space, 0));
    INSERT INTO embedding_spaces (id, model, dimension)
        VALUES (space, space_model, space_dimension) ON CONFLICT (id) DO NOTHING;
    IF space_dimension > 4000 OR to_regtype(vector_type) IS NULL OR to_regclass(index_name) IS NOT NULL THEN
        RETURN true;
    END IF;
    IF (SELECT count(*) > 20000 FROM (SELECT FROM passages LIMIT 20001) few) THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE INDEX IF NOT EXISTS %I ON passages USING hnsw ((embedding::%s(%s)) %s_cosine_ops) WHERE space_id = %L',
        index_name, vector_type, space_dimension, vector_type, space);
    RETURN true;
END
$$;
