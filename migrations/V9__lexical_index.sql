-- The words of passages, for searches that look for words: BM25 over PostgreSQL's
-- full text. One lexical index a space of a collection, since each space cuts the
-- documents elsewhere, and a word must be counted once.

CREATE TABLE lexical_indexes (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id     uuid NOT NULL,
    collection_id uuid NOT NULL,
    space_id      text NOT NULL,
    -- Without what `term_changes` still holds.
    passages      bigint NOT NULL DEFAULT 0,
    words         bigint NOT NULL DEFAULT 0,
    -- Searches may use it: it was complete once.
    ready         boolean NOT NULL,
    -- Documents from this one on may have passages without terms; null: none has.
    fill_from     uuid,
    UNIQUE (collection_id, tenant_id, space_id),
    FOREIGN KEY (collection_id, tenant_id, space_id)
        REFERENCES collection_spaces (collection_id, tenant_id, space_id) ON DELETE CASCADE
);
CREATE INDEX lexical_indexes_to_fill ON lexical_indexes (id) WHERE fill_from IS NOT NULL;

CREATE TABLE passage_terms (
    passage_id uuid PRIMARY KEY REFERENCES passages ON DELETE CASCADE,
    tenant_id  uuid NOT NULL,
    index_id   bigint NOT NULL REFERENCES lexical_indexes ON DELETE CASCADE,
    -- Text search configuration that its words were stemmed with.
    language   text NOT NULL,
    -- Its length, in words.
    words      integer NOT NULL,
    -- Stems, and pairs of characters of scripts without spaces. One more term, `@` with
    -- the index's id, lets the GIN index read this index's passages only.
    terms      tsvector NOT NULL
) WITH (toast_tuple_target = 8160);
-- Read for every passage that holds a word of the query: unpacking would cost more than scoring.
ALTER TABLE passage_terms ALTER COLUMN terms SET STORAGE EXTERNAL;
CREATE INDEX passage_terms_terms ON passage_terms USING gin (terms) WITH (gin_pending_list_limit = 512);
CREATE INDEX passage_terms_index ON passage_terms (index_id);

-- In how many passages a term stands; `@` with a language: how many are of that.
CREATE TABLE term_counts (
    index_id  bigint NOT NULL REFERENCES lexical_indexes ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    term      text COLLATE "C" NOT NULL,
    passages  bigint NOT NULL,
    PRIMARY KEY (index_id, term)
) WITH (fillfactor = 70);

-- What is still to be added to the counts: passages that came (+1) and went (-1).
-- Adding at once would make those wait for each other who store documents with the
-- same words. Searches add it; now and then it is folded into the counts.
CREATE TABLE term_changes (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_id  bigint NOT NULL REFERENCES lexical_indexes ON DELETE CASCADE,
    tenant_id uuid NOT NULL,
    change    smallint NOT NULL,
    language  text NOT NULL,
    words     integer NOT NULL,
    terms     tsvector NOT NULL
);
CREATE INDEX term_changes_index ON term_changes (index_id);

-- Triggers, since passages also go by cascades, and by replicas of the previous version.
CREATE FUNCTION note_added_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO term_changes (index_id, tenant_id, change, language, words, terms)
        SELECT index_id, tenant_id, 1, language, words, strip(terms) FROM added;
    RETURN NULL;
END
$$;
CREATE TRIGGER passage_terms_added AFTER INSERT ON passage_terms
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note_added_terms();

-- Where the whole index goes nothing is counted.
CREATE FUNCTION note_removed_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO term_changes (index_id, tenant_id, change, language, words, terms)
        SELECT r.index_id, r.tenant_id, -1, r.language, r.words, strip(r.terms)
        FROM removed r JOIN lexical_indexes i ON i.id = r.index_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER passage_terms_removed AFTER DELETE ON passage_terms
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION note_removed_terms();

CREATE FUNCTION add_lexical_index() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO lexical_indexes (tenant_id, collection_id, space_id, ready)
        VALUES (NEW.tenant_id, NEW.collection_id, NEW.space_id, true);
    RETURN NULL;
END
$$;
CREATE TRIGGER collection_spaces_lexical_index AFTER INSERT ON collection_spaces
    FOR EACH ROW EXECUTE FUNCTION add_lexical_index();

-- Before what it counts: a collection of many passages goes without counting them down one by one.
CREATE FUNCTION remove_lexical_indexes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM lexical_indexes WHERE collection_id = OLD.id;
    RETURN OLD;
END
$$;
CREATE TRIGGER collections_lexical_indexes BEFORE DELETE ON collections
    FOR EACH ROW EXECUTE FUNCTION remove_lexical_indexes();

-- Replicas of the previous version write passages without terms. Whoever writes
-- terms says so (`ragway.terms`); for others it is noted from where on some are missing.
-- The row is locked until their transaction ends, so that filling does not pass them by.
CREATE FUNCTION note_missing_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF current_setting('ragway.terms', true) IS DISTINCT FROM 'written' THEN
        UPDATE lexical_indexes i SET fill_from = least(i.fill_from, earliest.document_id)
            FROM (SELECT DISTINCT ON (collection_id, tenant_id, space_id)
                         collection_id, tenant_id, space_id, document_id FROM added
                  ORDER BY collection_id, tenant_id, space_id, document_id) earliest
            WHERE (i.collection_id, i.tenant_id, i.space_id)
                = (earliest.collection_id, earliest.tenant_id, earliest.space_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER passages_without_terms AFTER INSERT ON passages
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note_missing_terms();

-- The terms of another text are wrong: none is better, until the row is filled again.
CREATE FUNCTION remove_outdated_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM passage_terms WHERE passage_id = NEW.id;
    IF current_setting('ragway.terms', true) IS DISTINCT FROM 'written' THEN
        UPDATE lexical_indexes SET fill_from = least(fill_from, NEW.document_id)
            WHERE collection_id = NEW.collection_id AND tenant_id = NEW.tenant_id AND space_id = NEW.space_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER passages_outdated_terms AFTER UPDATE OF content ON passages
    FOR EACH ROW WHEN (OLD.content IS DISTINCT FROM NEW.content) EXECUTE FUNCTION remove_outdated_terms();

-- What is stored already is filled in afterwards, in small transactions, by any replica.
INSERT INTO lexical_indexes (tenant_id, collection_id, space_id, ready, fill_from)
    SELECT h.tenant_id, h.collection_id, h.space_id, NOT there.passages,
           CASE WHEN there.passages THEN '00000000-0000-0000-0000-000000000000'::uuid END
    FROM collection_spaces h, LATERAL (
        SELECT EXISTS (SELECT FROM passages p WHERE p.collection_id = h.collection_id AND p.space_id = h.space_id)
            AS passages) there;
