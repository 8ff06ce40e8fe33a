//! What answering one question uses.

use std::sync::Arc;

use crate::{
    models::{GeneratedPart, Message, estimate_tokens},
    rag::{
        Caller, Rag,
        search::SearchOutcome,
        usage::{Charge, Ledger, Meter, Operation, Tokens},
    },
};

/// Charges the caller. What a backend has read and written is charged when this is dropped, at the latest.
pub(super) struct Account {
    ledger: Arc<Ledger>,
    caller: Caller,
    writer: Option<Meter>,
}

impl Account {
    /// Charges for finding the passages.
    pub(super) fn open(rag: &Rag, caller: Caller, found: &SearchOutcome) -> Self {
        let account = Self { ledger: Arc::clone(rag.ledger()), caller, writer: None };
        account.embedded(&found.collection.space.model, found.tokens);
        account
    }

    /// Charges for what an embedder read.
    pub(super) fn embedded(&self, model: &str, tokens: usize) {
        self.ledger.record_beside(self.caller, Operation::Ask, model, Tokens::embedded(tokens));
    }

    /// A backend was given this to read.
    pub(super) fn begin(&mut self, backend: &str, prompt: &[Message]) {
        let tokens = prompt.iter().map(|message| estimate_tokens(&message.text)).sum();
        self.writer = Some(Meter::begin(&self.ledger, self.caller, Operation::Ask, backend, tokens));
    }

    /// It gave this.
    pub(super) fn count(&mut self, part: &GeneratedPart) {
        if let Some(writer) = &mut self.writer {
            writer.count(part);
        }
    }

    /// Charges for an answer of `model`.
    pub(super) fn close(&mut self, model: &str) -> Charge {
        let charge = match self.writer.take() {
            Some(writer) if writer.backend() == model => return writer.close(),
            // Its text was not used: it costs what it costs, but another one answered.
            Some(writer) => writer.beside().close(),
            None => Charge::default(),
        };
        self.ledger.record(self.caller, Operation::Ask, model, Tokens::default());
        charge
    }
}
