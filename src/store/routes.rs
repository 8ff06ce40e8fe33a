//! Which model serves a model type: chosen once, the same for every replica.

use tokio_postgres::{Row, types::Type};

use super::{FromRow, Store, StoreError};

/// The model of a route with the space of its vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChoice {
    pub model: String,
    pub space: String,
}

impl FromRow for RouteChoice {
    fn from_row(row: &Row) -> Self {
        Self { model: row.get("model"), space: row.get("space_id") }
    }
}

impl Store {
    /// What was chosen for a model type.
    pub async fn route_choice(&self, model_type: &str) -> Result<Option<RouteChoice>, StoreError> {
        let row = self
            .connection()
            .await?
            .query_typed_opt(
                "SELECT model, space_id FROM embed_routes WHERE model_type = $1",
                &[(&model_type, Type::TEXT)],
            )
            .await?;
        Ok(row.map(|row| RouteChoice::from_row(&row)))
    }

    /// Records a choice and returns the one in force: of two replicas that choose at the same
    /// time the first wins. A record of a model that is no longer among `candidates` is replaced.
    pub async fn record_route(
        &self,
        model_type: &str,
        choice: &RouteChoice,
        candidates: &[String],
    ) -> Result<RouteChoice, StoreError> {
        let row = self
            .connection()
            .await?
            .query_typed_one(
                "INSERT INTO embed_routes AS known (model_type, model, space_id) VALUES ($1, $2, $3)
                 ON CONFLICT (model_type) DO UPDATE
                     SET model = CASE WHEN known.model = ANY($4) THEN known.model ELSE excluded.model END,
                         space_id = CASE WHEN known.model = ANY($4) THEN known.space_id ELSE excluded.space_id END,
                         chosen_at = CASE WHEN known.model = ANY($4) THEN known.chosen_at ELSE now() END
                 RETURNING model, space_id",
                &[
                    (&model_type, Type::TEXT),
                    (&choice.model, Type::TEXT),
                    (&choice.space, Type::TEXT),
                    (&candidates, Type::TEXT_ARRAY),
                ],
            )
            .await?;
        Ok(RouteChoice::from_row(&row))
    }
}
