//! A conversation with a model in this process, without documents.

use crate::{
    models::{
        GenerateRequest, Generator, Message, ModelError,
        router::{RouteError, Routed, Selector},
    },
    rag::{
        Caller, Rag, RagError,
        ask::Writing,
        usage::{Meter, Operation},
    },
};

/// Tokens that a chat template adds around a message, amply.
const TEMPLATE_TOKENS: usize = 16;

/// What a model is to go on with.
#[derive(Debug, Clone)]
pub struct LocalRequest {
    pub caller: Caller,
    /// Name of a backend.
    pub model: String,
    pub messages: Vec<Message>,
    pub writing: Writing,
}

impl Rag {
    /// Lets a backend go on with a conversation, `ask.max_answer_tokens` long at most.
    ///
    /// Fails with [`RagError::Invalid`] when the last message is not the user's or all of them do not fit.
    pub async fn converse(&self, request: LocalRequest) -> Result<Routed<()>, RagError> {
        let LocalRequest { caller, model, messages, writing } = request;
        let question = super::conversation::Conversation::of(messages.clone())?.question;
        self.ledger().admit(caller).await?;
        let selector = Selector {
            model: Some(&model),
            tenant: Some(caller.tenant.0),
            question: &question,
            ..Selector::default()
        };
        let max_tokens = writing.max_tokens.unwrap_or(self.catalog.ask.max_answer_tokens);
        let plan = |backend: &dyn Generator| {
            let count = |message: &Message| backend.count_tokens(&message.text) + TEMPLATE_TOKENS;
            let prompt_tokens = messages.iter().map(count).sum::<usize>();
            let tokens = max_tokens + prompt_tokens;
            let context = backend.context_tokens();
            if tokens > context {
                let reason = format!("messages and answer take about {tokens} tokens of its {context}");
                return Err(ModelError::Unfit { model: backend.name().to_owned(), reason });
            }
            let request = GenerateRequest {
                messages: messages.clone(),
                max_tokens,
                temperature: writing.temperature.unwrap_or(0.0),
                top_p: writing.top_p,
                seed: writing.seed,
                stop: writing.stop.clone(),
            };
            Ok((request, prompt_tokens))
        };
        let Routed { backend, plan: prompt_tokens, attempts, stream } =
            self.answers.generate(&selector, plan).await.map_err(|error| told(&error))?;
        let meter = Meter::begin(self.ledger(), caller, Operation::Chat, &backend, prompt_tokens);
        Ok(Routed { backend, plan: (), attempts, stream: meter.watch(stream) })
    }
}

/// The error of the last backend that was asked.
fn told(error: &RouteError) -> RagError {
    match error.last().map(|attempt| attempt.error.clone()) {
        Some(ModelError::Unfit { reason, .. }) => RagError::Invalid(format!("messages: {reason}")),
        Some(error) => error.into(),
        None => RagError::UnknownModel(error.to_string()),
    }
}
