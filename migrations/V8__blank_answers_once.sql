-- An answer may quote several documents that one transaction deletes. Blanked a
-- second time, the row would be checked for its collection again, which goes in
-- the same transaction, and the deletion would fail.
CREATE OR REPLACE FUNCTION blank_answers() RETURNS trigger
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE answers SET question = NULL, answer = NULL, comment = NULL
        WHERE id IN (SELECT answer_id FROM answer_citations WHERE document_id = OLD.id)
          AND (question IS NOT NULL OR answer IS NOT NULL OR comment IS NOT NULL);
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$$;
