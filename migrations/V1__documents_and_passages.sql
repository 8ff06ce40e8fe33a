-- Documents, their passages and the vectors of the passages.
-- Every row names its tenant; every vector names its embedding space.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE tenants (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO tenants (id, name) VALUES ('00000000-0000-7000-8000-000000000001', 'default');

CREATE TABLE embedding_spaces (
    id         text PRIMARY KEY,
    model      text NOT NULL,
    dimension  integer NOT NULL CHECK (dimension > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE collections (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL REFERENCES tenants,
    name       text NOT NULL,
    space_id   text NOT NULL REFERENCES embedding_spaces,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name),
    UNIQUE (id, tenant_id, space_id)
);

CREATE TABLE documents (
    id            uuid PRIMARY KEY,
    tenant_id     uuid NOT NULL REFERENCES tenants,
    collection_id uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    external_id   text,
    content_hash  bytea NOT NULL,
    title         text,
    source        text,
    format        text NOT NULL,
    content       text NOT NULL,
    metadata      jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (collection_id, content_hash, external_id),
    UNIQUE (collection_id, external_id)
);

CREATE TABLE passages (
    id            uuid PRIMARY KEY,
    tenant_id     uuid NOT NULL,
    collection_id uuid NOT NULL,
    space_id      text NOT NULL,
    document_id   uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    ordinal       integer NOT NULL,
    heading       text,
    content       text NOT NULL,
    -- Copied from the document, so that a filtered vector search reads one table.
    metadata      jsonb NOT NULL,
    -- No fixed dimension: spaces of several dimensions live side by side. The
    -- index of each space casts, and so refuses, a vector of another dimension.
    embedding     vector NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (document_id, ordinal),
    -- A passage can only be of its collection's space.
    FOREIGN KEY (collection_id, tenant_id, space_id)
        REFERENCES collections (id, tenant_id, space_id) ON DELETE CASCADE
);
CREATE INDEX passages_collection ON passages (collection_id);
CREATE INDEX passages_metadata ON passages USING gin (metadata jsonb_path_ops);
CREATE INDEX documents_listing ON documents (collection_id, id);

-- Registers a space and builds its index. The application's role owns no table,
-- so the owner's rights are lent for this one thing. Dimensions over 2000 get no
-- index (the limit of HNSW on `vector`); their searches are exact.
CREATE FUNCTION register_embedding_space(space text, space_model text, space_dimension integer)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('ragway.space.' || space, 0));
    INSERT INTO embedding_spaces (id, model, dimension)
        VALUES (space, space_model, space_dimension) ON CONFLICT (id) DO NOTHING;
    IF space_dimension <= 2000 THEN
        EXECUTE format(
            'CREATE INDEX IF NOT EXISTS %I ON passages USING hnsw ((embedding::vector(%s)) vector_cosine_ops) WHERE space_id = %L',
            'passages_hnsw_' || left(md5(space), 16), space_dimension, space);
    END IF;
END
$$;
