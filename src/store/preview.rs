//! A space that is being filled, looked at before searches read it.

use tokio_postgres::types::Type;

use super::{Collection, OtherState, Store, StoreError, TenantId};

impl Collection {
    /// The collection as it will be when searches read the space that is being filled; none where nothing
    /// is. What searches of it find is only as complete as the filling; no index is meant for it.
    pub fn when_switched(&self) -> Option<Self> {
        let other = self.other.as_ref().filter(|other| other.state == OtherState::Filling)?;
        Some(Self { space: other.space.clone(), ..self.clone() })
    }

    /// States of a space that a search of this collection may read: whole ones, unless the filling is meant.
    pub(super) fn readable(&self) -> Vec<&'static str> {
        let filling = self
            .other
            .as_ref()
            .is_some_and(|other| other.state == OtherState::Filling && other.space == self.space);
        if filling { vec!["live", "kept", "filling"] } else { vec!["live", "kept"] }
    }
}

impl Store {
    /// Those of `ids` that no document of the collection has as its `external_id`, in order.
    pub async fn unknown_external_ids(
        &self,
        tenant: TenantId,
        collection: &Collection,
        ids: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let rows = self
            .tenant(tenant)
            .await?
            .query_typed(
                "SELECT wanted.id FROM unnest($3::text[]) WITH ORDINALITY wanted (id, place)
                 WHERE NOT EXISTS (SELECT FROM documents d WHERE d.tenant_id = $1 AND d.collection_id = $2
                                   AND d.external_id = wanted.id)
                 ORDER BY place",
                &[(&tenant.0, Type::UUID), (&collection.id, Type::UUID), (&ids, Type::TEXT_ARRAY)],
            )
            .await?;
        Ok(rows.iter().map(|row| row.get("id")).collect())
    }
}
