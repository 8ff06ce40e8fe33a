-- Keys of programs. What is stored is the SHA-256 of a key, which is 256 random bits: whoever reads this table
-- cannot use what stands in it, and there is nothing to guess that a slow hash would have to protect.
CREATE TABLE api_keys (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenants ON DELETE CASCADE,
    name        text NOT NULL,
    key_hash    bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
    permissions text[] NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id);

-- Who administered what, and when. Of a tenant it only has the id: an entry outlives whom it tells of.
CREATE TABLE audit_log (
    id         uuid PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    tenant_id  uuid NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    target     text NOT NULL,
    -- Null: it was done at the command line.
    request_id text,
    -- Written before the action, told what came of it after: null where nobody lived to tell.
    outcome    text
);
