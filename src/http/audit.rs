//! Administrative actions are written down: who did what to what, and what came of it.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};

use super::{Gateway, error::ApiError, observe::request_id};
use crate::{
    access::Identity,
    store::{DONE, NewAuditEntry},
};

/// Longest name of an actor or a target, in characters.
const MAX_NAME: usize = 200;

/// Writes down what the caller does.
pub struct Audit {
    identity: Identity,
    gateway: web::Data<Gateway>,
}

impl FromRequest for Audit {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let identity = Identity::from_request(request, payload).into_inner();
        let gateway = request.app_data::<web::Data<Gateway>>().cloned();
        ready(match (identity, gateway) {
            (Ok(identity), Some(gateway)) => Ok(Self { identity, gateway }),
            (Err(error), _) => Err(error),
            (Ok(_), None) => Err(ApiError::internal("the application has no gateway")),
        })
    }
}

impl Audit {
    /// Does it, with an entry that is there before it begins: what cannot be written down is not done.
    pub async fn of<T>(
        &self,
        action: &str,
        target: &str,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let store = self.gateway.rag.store();
        let (actor, target) = (storable(&self.identity.actor.to_string()), storable(target));
        let request = request_id();
        let entry = NewAuditEntry {
            tenant: self.identity.tenant,
            actor: &actor,
            action,
            target: &target,
            request_id: Some(&request),
        };
        let id = store.begin_audit(&entry).await?;
        let result = work.await;
        let outcome = result.as_ref().map_or_else(ApiError::code, |_| DONE);
        if let Err(error) = store.end_audit(entry.tenant, id, outcome).await {
            tracing::error!(%error, action, target, actor, outcome, "the audit log lacks how it ended: {error}");
        }
        result
    }
}

/// The database takes no NUL, and a line of the log is one line.
fn storable(name: &str) -> String {
    name.chars()
        .take(MAX_NAME)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}
