-- A tenant's rows are seen only by transactions that name the tenant (`app.tenant`), whatever a
-- statement's own conditions are. It holds for the application's role: who owns the tables sees all.
--
-- Replicas of the previous version do not name it. So the policies come now, and a database that
-- is in use goes on without: `ragway tenant enforce` turns them on when the last of those has ended.

-- The tenant that the transaction names. None: it sees no row of any.
CREATE FUNCTION current_tenant() RETURNS uuid STABLE PARALLEL SAFE
RETURN nullif(current_setting('app.tenant', true), '')::uuid;

-- For a table whose rows belong to tenants. A later migration calls it for each that it makes.
CREATE FUNCTION keep_tenants_apart(kept regclass, condition text DEFAULT 'tenant_id = (SELECT current_tenant())')
RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    -- The condition is also what rows must meet that are written.
    EXECUTE format('CREATE POLICY tenant_rows ON %s USING (%s)', kept, condition);
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'tenants'::regclass) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', kept);
    END IF;
END
$$;

-- Nobody has used the database before: there is no replica that could be in the way.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM collections) THEN
        ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
    END IF;
    PERFORM keep_tenants_apart('tenants', 'id = (SELECT current_tenant())');
    PERFORM keep_tenants_apart(attrelid::regclass)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE a.attname = 'tenant_id' AND NOT a.attisdropped AND c.relkind = 'r'
          AND c.relnamespace = 'public'::regnamespace;
END
$$;
SELECT keep_tenants_apart('collection_versions',
    'EXISTS (SELECT FROM collections c WHERE c.id = collection_id AND c.tenant_id = (SELECT current_tenant()))');
SELECT keep_tenants_apart('answer_citations',
    'EXISTS (SELECT FROM documents d WHERE d.id = document_id AND d.tenant_id = (SELECT current_tenant()))');

-- What searches read. Behind a policy `@@` and `@>` answer from no index, for an operator that
-- is not known to be leakproof may not see a row before the policy has. These views have the same
-- condition, but as one among others: they keep a statement from finding another tenant's rows, and
-- not someone who may run any statement; who may do that can name any tenant anyway. A view reads
-- its tables with its owner's rights.
CREATE VIEW tenant_passages AS
    SELECT * FROM passages WHERE tenant_id = (SELECT current_tenant()) WITH CHECK OPTION;
CREATE VIEW tenant_passage_terms AS
    SELECT * FROM passage_terms WHERE tenant_id = (SELECT current_tenant()) WITH CHECK OPTION;

-- What is done for all tenants, with the owner's rights: each of these functions does one thing, and
-- tells no more than what the work needs.

-- Takes the job that has been due longest; whoever took it can read it then as its tenant. Jobs whose
-- workers were lost at every attempt become dead letters: an ill job must not kill workers for ever.
CREATE FUNCTION claim_job(token uuid, lease_s double precision, kinds text[])
RETURNS TABLE (job uuid, tenant uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE jobs SET state = 'failed', lease_token = NULL, updated_at = now(), finished_at = now(),
                    expires_at = now() + keep * 7,
                    error = concat_ws('; before that: ',
                                      'its worker was lost at each of the last attempts (' || attempts || ')', error)
        WHERE id IN (
            SELECT id FROM jobs WHERE state = 'running' AND due_at <= now() AND attempts >= max_attempts
            LIMIT 100 FOR UPDATE SKIP LOCKED);
    UPDATE jobs SET state = 'running', attempts = attempts + 1, lease_token = token, updated_at = now(),
                    due_at = now() + make_interval(secs => lease_s), started_at = coalesce(started_at, now())
        WHERE id = (
            SELECT id FROM jobs
            WHERE state IN ('queued', 'running') AND due_at <= now() AND attempts < max_attempts
              AND kind = ANY(kinds)
            ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING id, tenant_id;
$$;

-- Removes jobs that have expired, `most` of them at most; says how many.
CREATE FUNCTION sweep_jobs(most bigint) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH swept AS (
        DELETE FROM jobs WHERE id IN (
            SELECT id FROM jobs WHERE expires_at <= now() ORDER BY expires_at LIMIT most
            FOR UPDATE SKIP LOCKED)
        RETURNING 1
    ) SELECT count(*) FROM swept;
$$;

-- Removes answers that are older, `most` of them at most; says how many.
CREATE FUNCTION sweep_answers(days integer, most bigint) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH swept AS (
        DELETE FROM answers WHERE id IN (
            SELECT id FROM answers WHERE created_at < now() - make_interval(days => days)
            ORDER BY created_at LIMIT most FOR UPDATE SKIP LOCKED)
        RETURNING 1
    ) SELECT count(*) FROM swept;
$$;

-- What every key has used today and, apart from that, since the month began: for quotas.
CREATE FUNCTION usage_spent(month date, today date)
RETURNS TABLE (tenant_id uuid, key_id uuid, is_today boolean, requests bigint, embed_tokens bigint,
               prompt_tokens bigint, completion_tokens bigint, estimated_tokens bigint, cost_nano bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT u.tenant_id, u.key_id, u.day = today, sum(u.requests)::bigint, sum(u.embed_tokens)::bigint,
           sum(u.prompt_tokens)::bigint, sum(u.completion_tokens)::bigint, sum(u.estimated_tokens)::bigint,
           sum(u.cost_nano)::bigint
    FROM usage_daily u WHERE u.day BETWEEN month AND today GROUP BY u.tenant_id, u.key_id, u.day = today;
$$;

-- A lexical index that lacks words, held until the transaction ends; none that another holds.
CREATE FUNCTION lock_lexical_index_to_fill()
RETURNS TABLE (id bigint, tenant_id uuid, collection_id uuid, fill_from uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT i.id, i.tenant_id, i.collection_id, i.fill_from FROM lexical_indexes i
        WHERE i.fill_from IS NOT NULL ORDER BY i.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
$$;

-- A key by its hash, which only who has the key can tell; its tenant is not known before.
CREATE FUNCTION api_key_of_hash(hash bytea)
RETURNS TABLE (id uuid, tenant_id uuid, tenant_name text, name text, permissions text[], created_at timestamptz,
               expires_at timestamptz, revoked_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.id, k.tenant_id, t.name, k.name, k.permissions, k.created_at, k.expires_at, k.revoked_at
    FROM api_keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.key_hash = hash;
$$;

-- The tenant that a token names, by its id or, where that is null, by its name.
CREATE FUNCTION find_tenant(of_id uuid, of_name text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT id FROM tenants WHERE id = of_id OR of_id IS NULL AND name = of_name;
$$;

-- For the application's role alone, which is granted them after the migrations.
REVOKE EXECUTE ON FUNCTION claim_job, sweep_jobs, sweep_answers, usage_spent, lock_lexical_index_to_fill,
    api_key_of_hash, find_tenant, keep_tenants_apart FROM PUBLIC;
