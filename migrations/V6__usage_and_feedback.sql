-- What callers use, added up for each day. `key_id` is the key that a request was made with, once there are keys.
CREATE TABLE usage_daily (
    day               date NOT NULL,
    tenant_id         uuid NOT NULL REFERENCES tenants,
    key_id            uuid,
    -- What was asked for: ask, search, embed, ingest, ….
    operation         text NOT NULL,
    -- The catalog entry that did it.
    backend           text NOT NULL,
    requests          bigint NOT NULL DEFAULT 0,
    embed_tokens      bigint NOT NULL DEFAULT 0,
    prompt_tokens     bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    -- Billionths of the unit of the prices, so that sums are exact.
    cost_nano         bigint NOT NULL DEFAULT 0,
    UNIQUE NULLS NOT DISTINCT (tenant_id, day, key_id, operation, backend)
);
CREATE INDEX usage_daily_day ON usage_daily (day);

-- Answers that were given, and what readers thought of them.
CREATE TABLE answers (
    id                uuid PRIMARY KEY,
    tenant_id         uuid NOT NULL REFERENCES tenants,
    key_id            uuid,
    collection_id     uuid NOT NULL REFERENCES collections ON DELETE CASCADE,
    -- Null where texts are not recorded, or what they quote is deleted.
    question          text,
    answer            text,
    method            text NOT NULL CHECK (method IN ('generated', 'extractive', 'abstained')),
    backend           text NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    cost_nano         bigint NOT NULL,
    elapsed_ms        bigint NOT NULL,
    rating            text CHECK (rating IN ('up', 'down')),
    comment           text,
    rated_at          timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((rating IS NULL) = (rated_at IS NULL))
);
CREATE INDEX answers_age ON answers (created_at);
CREATE INDEX answers_collection ON answers (collection_id);
CREATE INDEX answers_rated ON answers (tenant_id, id) WHERE rating IS NOT NULL;

-- The places that an answer quotes. A passage is not referred to: going over to
-- another embedding space makes new passages of the same document.
CREATE TABLE answer_citations (
    answer_id   uuid NOT NULL REFERENCES answers ON DELETE CASCADE,
    document_id uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    passage_id  uuid NOT NULL,
    -- The number in the answer.
    n           integer NOT NULL,
    PRIMARY KEY (answer_id, passage_id)
);
CREATE INDEX answer_citations_document ON answer_citations (document_id);

-- What a document said must not outlive it in answers, nor in remarks on them.
-- Before the deletion: it takes the citations along.
CREATE FUNCTION blank_answers() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE answers SET question = NULL, answer = NULL, comment = NULL
        WHERE id IN (SELECT answer_id FROM answer_citations WHERE document_id = OLD.id);
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER documents_blank_answers BEFORE DELETE ON documents
    FOR EACH ROW EXECUTE FUNCTION blank_answers();
CREATE TRIGGER documents_blank_answers_of_changed BEFORE UPDATE OF content ON documents
    FOR EACH ROW WHEN (OLD.content IS DISTINCT FROM NEW.content) EXECUTE FUNCTION blank_answers();
