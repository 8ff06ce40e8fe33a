//! What answering one question uses.

use std::sync::Arc;

use crate::{
    models::{Message, Usage, estimate_tokens},
    rag::{
        Caller, Rag,
        search::SearchOutcome,
        usage::{Ledger, Operation, Tokens},
    },
};

/// Charges the caller when it is dropped at the latest: what a backend has read and written
/// costs as much when nobody waits for the answer any more.
pub(super) struct Account {
    ledger: Arc<Ledger>,
    caller: Caller,
    backend: Option<String>,
    usage: Usage,
}

impl Account {
    /// Charges for finding the passages.
    pub(super) fn open(rag: &Rag, caller: Caller, found: &SearchOutcome) -> Self {
        let tokens = Tokens { embedded: found.tokens, ..Tokens::default() };
        rag.ledger().record_beside(caller, Operation::Ask, &found.collection.space.model, tokens);
        Self { ledger: Arc::clone(rag.ledger()), caller, backend: None, usage: Usage::default() }
    }

    /// A backend was given this to read. How many tokens that is, it says at its end, if at all.
    pub(super) fn begin(&mut self, backend: &str, prompt: &[Message]) {
        let prompt_tokens = prompt.iter().map(|message| estimate_tokens(&message.text)).sum();
        self.backend = Some(backend.to_owned());
        self.usage = Usage { prompt_tokens, completion_tokens: 0 };
    }

    /// It wrote this.
    pub(super) fn write(&mut self, text: &str) {
        self.usage.completion_tokens += estimate_tokens(text);
    }

    /// It says how much it was.
    pub(super) fn told(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// Charges for an answer of `model`; what it cost is returned, in billionths.
    pub(super) fn close(&mut self, model: &str) -> i64 {
        let mut tokens = Tokens {
            embedded: 0,
            prompt: self.usage.prompt_tokens,
            completion: self.usage.completion_tokens,
        };
        // Its text was not used: it costs what it costs, but another one answered.
        if let Some(other) = self.backend.take().filter(|backend| backend != model) {
            self.ledger.record_beside(self.caller, Operation::Ask, &other, std::mem::take(&mut tokens));
        }
        self.ledger.record(self.caller, Operation::Ask, model, tokens)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Some(backend) = self.backend.clone() {
            self.close(&backend);
        }
    }
}
