//! A conversation in, a cited answer to its last question out.
//!
//! Documents are searched with one question, so what the last one takes from the
//! turns before it is put into it first (`rewrite`); then it is asked like any
//! other. The conversation itself is not shown to the backend that answers:
//! answers come from the documents only.

mod conversation;
mod direct;
mod pass_on;
mod rewrite;

pub use direct::LocalRequest;
pub use pass_on::PassOnError;

use super::{
    Caller, DEFAULT_COLLECTION, Rag, RagError,
    ask::{AskRequest, AskRerank, AskStream, Writing},
    usage::Charge,
};
use crate::models::{Message, router::Selector};
use conversation::Conversation;

/// The model that answers from documents, as clients name it; `ragway/<collection>` is of another collection.
pub const RAG_MODEL: &str = "ragway";

/// A conversation whose last message is a question.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    pub caller: Caller,
    pub collection: Option<String>,
    /// In order. What the system says is taken as the wanted style.
    pub messages: Vec<Message>,
    pub writing: Writing,
}

/// An answer that has begun.
pub struct Chat {
    /// What the documents are searched with.
    pub question: Standalone,
    /// What a reader should know beside the answer's own notes.
    pub notes: Vec<String>,
    pub events: AskStream,
}

/// A question that can be understood without the conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Standalone {
    pub text: String,
    pub made: Made,
    /// What the caller is charged for the rewriting.
    pub usage: Charge,
}

/// How a standalone question came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// As it was asked.
    AsAsked,
    /// By this backend.
    Rewritten(String),
    /// Joined with the questions before it.
    Joined,
}

impl Rag {
    /// Answers the last question of a conversation.
    ///
    /// Fails with [`RagError::Invalid`], which names `messages`, where the conversation is none, and as
    /// [`Rag::ask`] does.
    pub async fn chat(&self, request: ChatRequest) -> Result<Chat, RagError> {
        let ChatRequest { caller, collection, messages, writing } = request;
        let Conversation { style, history, question } = Conversation::of(messages)?;
        let (style, left_out) = conversation::fitting(style);
        self.ledger().admit(caller).await?;
        // A rule that keeps a collection's or a tenant's questions with one backend holds for this one too.
        let selector = Selector {
            collection: Some(collection.as_deref().unwrap_or(DEFAULT_COLLECTION)),
            tenant: Some(caller.tenant.0),
            ..Selector::default()
        };
        let question = rewrite::standalone(self, caller, selector, &history, question).await;
        let request = AskRequest {
            caller,
            collection,
            question: question.text.clone(),
            k: None,
            filter: None,
            model: None,
            explain: false,
            writing: Writing { style, ..writing },
            rerank: AskRerank::Configured,
        };
        let k = self.check_ask(&request)?;
        let events = self.answer(request, k).await?;
        Ok(Chat { question, notes: left_out.into_iter().collect(), events })
    }
}
