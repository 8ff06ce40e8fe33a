//! What one backend reads and writes for a caller.

use std::sync::Arc;

use futures_util::StreamExt;

use super::{Ledger, Operation, Tokens};
use crate::{
    models::{GeneratedPart, GenerationStream, Usage, estimate_tokens},
    rag::Caller,
};

/// Tokens that a caller is charged for, and what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Charge {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    /// Whether the backend did not count all of them.
    pub estimated: bool,
    /// In billionths of the prices' unit.
    pub cost_nano: i64,
}

impl std::ops::Add for Charge {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
            estimated: self.estimated || other.estimated,
            cost_nano: self.cost_nano + other.cost_nano,
        }
    }
}

/// Counts what a backend reads and writes, and charges the caller when it is dropped at the latest:
/// that costs as much when nobody waits for the answer any more.
pub(in crate::rag) struct Meter {
    ledger: Arc<Ledger>,
    caller: Caller,
    operation: Operation,
    backend: String,
    /// Whether the backend serves the request; else it works beside the one that does.
    serves: bool,
    usage: Usage,
    estimated: bool,
    charged: bool,
}

impl Meter {
    /// A backend was given about so many tokens to read; how many they are, it says at its end, if at all.
    pub fn begin(
        ledger: &Arc<Ledger>,
        caller: Caller,
        operation: Operation,
        backend: &str,
        prompt_tokens: usize,
    ) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            caller,
            operation,
            backend: backend.to_owned(),
            serves: true,
            usage: Usage { prompt_tokens, completion_tokens: 0 },
            estimated: true,
            charged: false,
        }
    }

    /// The same for work beside that of the backend which serves the request.
    pub fn beside(mut self) -> Self {
        self.serves = false;
        self
    }

    /// Name of the backend.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// It wrote about so many tokens.
    pub fn wrote(&mut self, tokens: usize) {
        self.usage.completion_tokens += tokens;
        self.estimated |= tokens > 0;
    }

    /// It says how many it has read and written until now.
    pub fn told(&mut self, usage: Usage) {
        (self.usage, self.estimated) = (usage, false);
    }

    /// It gave this part of a generation.
    pub fn count(&mut self, part: &GeneratedPart) {
        match part {
            GeneratedPart::Text(text) => self.wrote(estimate_tokens(text)),
            GeneratedPart::Usage(usage) => self.told(*usage),
        }
    }

    /// The parts of a generation, counted as they pass.
    pub fn watch(mut self, parts: GenerationStream) -> GenerationStream {
        parts.inspect(move |part| part.iter().for_each(|part| self.count(part))).boxed()
    }

    /// Charges for it.
    pub fn close(mut self) -> Charge {
        self.charge()
    }

    fn charge(&mut self) -> Charge {
        let Usage { prompt_tokens, completion_tokens } = self.usage;
        let tokens = Tokens {
            embedded: 0,
            prompt: prompt_tokens,
            completion: completion_tokens,
            estimated: self.estimated,
        };
        self.charged = true;
        let requests = i64::from(self.serves);
        let cost_nano = self.ledger.add(self.caller, self.operation, &self.backend, requests, tokens);
        Charge { prompt_tokens, completion_tokens, estimated: self.estimated, cost_nano }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !self.charged {
            self.charge();
        }
    }
}
