-- The key that the work was asked for with, so that it is charged to it. Null: nobody
-- had to log in, or a replica of the previous version queued it.
ALTER TABLE jobs ADD COLUMN key_id uuid;

-- Of the tokens, those that a backend did not count and ragway estimated.
ALTER TABLE usage_daily ADD COLUMN estimated_tokens bigint NOT NULL DEFAULT 0;
