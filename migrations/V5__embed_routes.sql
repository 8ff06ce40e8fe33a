-- The model that serves each model type, chosen when the route was set up. A
-- replica that would make vectors of another space finds it here and says so.

CREATE TABLE embed_routes (
    model_type text PRIMARY KEY,
    model      text NOT NULL,
    space_id   text NOT NULL,
    chosen_at  timestamptz NOT NULL DEFAULT now()
);
