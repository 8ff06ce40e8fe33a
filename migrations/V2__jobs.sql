-- Work that outlives the request that asked for it, shared by all replicas.

CREATE TABLE jobs (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenants,
    kind         text NOT NULL,
    state        text NOT NULL DEFAULT 'queued'
                 CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Bytes, not jsonb: texts may hold NUL characters, and nothing searches in it.
    -- Removed when the job ends, except from a failed one.
    payload      bytea,
    result       bytea,
    done         bigint NOT NULL DEFAULT 0,
    total        bigint NOT NULL CHECK (total >= 0),
    -- How often it was taken since it last made progress.
    attempts     integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    -- When a worker may take it: a queued job at once or after a pause, a running
    -- one when its lease has run out.
    due_at       timestamptz NOT NULL DEFAULT now(),
    -- Proves who runs it: every write of a worker names it.
    lease_token  uuid,
    error        text,
    -- How long it can be read after its end.
    keep         interval NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    started_at   timestamptz,
    finished_at  timestamptz,
    expires_at   timestamptz,
    UNIQUE (id, tenant_id),
    CHECK ((state = 'running') = (lease_token IS NOT NULL)),
    CHECK ((state IN ('queued', 'running')) = (finished_at IS NULL)),
    CHECK ((finished_at IS NULL) = (expires_at IS NULL))
);
-- What is due, oldest first: ended jobs, most of them, are not in it.
CREATE INDEX jobs_due ON jobs (due_at) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_open ON jobs (tenant_id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_expired ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jobs_listing ON jobs (tenant_id, id);

-- What a job has done so far, piece by piece. A piece is written once, with the
-- work that it tells of, so that whoever goes on neither repeats nor skips one.
CREATE TABLE job_steps (
    job_id    uuid NOT NULL,
    tenant_id uuid NOT NULL,
    -- Number of the first item of the piece.
    position  bigint NOT NULL,
    outcome   bytea NOT NULL,
    PRIMARY KEY (job_id, position),
    FOREIGN KEY (job_id, tenant_id) REFERENCES jobs (id, tenant_id) ON DELETE CASCADE
);
