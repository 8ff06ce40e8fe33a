//! A conversation that a server goes on with as the client wrote it.

use futures_util::StreamExt;

use crate::{
    models::{
        forward::{ForwardRequest, Forwarded},
        router::{RouteError, RoutedForward, Selector},
    },
    rag::{
        Caller, Rag, RagError,
        usage::{Meter, Operation},
    },
};

/// Why a request was not passed on.
#[derive(Debug, thiserror::Error)]
pub enum PassOnError {
    /// The caller may not, or it cannot be known whether it may.
    #[error(transparent)]
    Refused(#[from] RagError),
    /// No backend answered it.
    #[error(transparent)]
    Unanswered(#[from] RouteError),
}

impl Rag {
    /// Whether the model that a request names is a server, which can be given it as it is.
    pub fn passes_on(&self, caller: Caller, request: &ForwardRequest) -> Result<bool, RouteError> {
        self.answers.forwards(&selector(caller, request))
    }

    /// Passes a request on. The caller is charged for what was read and written until the answer, or
    /// its stream, is complete or dropped.
    pub async fn pass_on(
        &self,
        caller: Caller,
        request: &ForwardRequest,
    ) -> Result<RoutedForward, PassOnError> {
        self.ledger().admit(caller).await?;
        let routed = self.answers.forward(&selector(caller, request), request).await?;
        let (backend, read) = (&routed.backend, request.estimated_tokens());
        let mut meter = Meter::begin(self.ledger(), caller, Operation::Chat, backend, read);
        let reply = match routed.reply {
            Forwarded::Whole(whole) => {
                match whole.usage() {
                    Some(usage) => meter.told(usage),
                    None => meter.wrote(whole.estimated_tokens()),
                }
                Forwarded::Whole(whole)
            }
            Forwarded::Stream(chunks) => Forwarded::Stream(
                chunks
                    .inspect(move |chunk| {
                        let Ok(chunk) = chunk else { return };
                        meter.wrote(chunk.estimated_tokens());
                        chunk.usage().into_iter().for_each(|usage| meter.told(usage));
                    })
                    .boxed(),
            ),
        };
        Ok(RoutedForward { reply, ..routed })
    }
}

fn selector(caller: Caller, request: &ForwardRequest) -> Selector<'_> {
    Selector {
        model: request.model(),
        tenant: Some(caller.tenant.0),
        question: request.question(),
        ..Selector::default()
    }
}
