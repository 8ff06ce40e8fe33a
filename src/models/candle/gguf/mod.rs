//! A GGUF language model on a thread of its own.
//!
//! Memory is bounded: the weights as they are in the file, the keys and values of `kept_prompts`
//! sequences of `context_tokens`, and what one pass of 128 tokens works in.

mod chat;
mod decoder;
mod pace;
mod sampler;
mod sequences;
mod stop;
mod weights;
mod worker;

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tracing::Span;

use self::{
    chat::ChatFormat,
    pace::Pace,
    worker::{Job, Tally, Worker},
};
use crate::{
    config::GgufEntry,
    models::{GenerateRequest, GeneratedPart, GenerationStream, Generator, ModelError},
};

/// A local language model. Dropping it ends its thread after the generation in progress.
pub struct GgufGenerator {
    name: String,
    context_tokens: usize,
    chat: Arc<ChatFormat>,
    jobs: mpsc::Sender<Job>,
    pace: Arc<Pace>,
    tally: Arc<Tally>,
}

/// What a model has done since it was loaded, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Went through the model, in prompts and in answers.
    pub computed: usize,
    /// Of prompts whose beginning had been read before.
    pub reused: usize,
}

impl GgufGenerator {
    /// Loads the entry's file from `folder` on the model's own thread.
    ///
    /// Architectures are `llama` and `qwen2`. Fails with [`ModelError::Failed`]
    /// when the file cannot be read, is of another architecture or tokenizer,
    /// or has a shorter context than the entry wants.
    pub async fn load(entry: &GgufEntry, folder: &Path) -> Result<Self, ModelError> {
        let name = entry.name.clone();
        let context_tokens = entry.context_tokens;
        let Some(file) = entry.files.first() else {
            return Err(failed(&name, "the catalog entry names no file"));
        };
        let path = folder.join(&file.name);
        let (jobs, queue) = mpsc::channel(entry.queue);
        let (loaded, ready) = oneshot::channel();
        let (pace, tally) = (Arc::new(Pace::default()), Arc::new(Tally::default()));

        let worker = Worker {
            name: name.clone(),
            context_tokens,
            kept_prompts: entry.kept_prompts,
            pace: Arc::clone(&pace),
            tally: Arc::clone(&tally),
        };
        thread::Builder::new()
            .name(format!("llm {name}"))
            .spawn(move || worker.run(&path, loaded, queue))
            .map_err(|error| failed(&name, format!("its thread cannot be started: {error}")))?;
        let chat = ready.await.unwrap_or_else(|_| Err(failed(&name, "its thread ended while loading")))?;
        Ok(Self { name, context_tokens, chat, jobs, pace, tally })
    }

    /// What it has done so far.
    pub fn work(&self) -> Work {
        Work {
            computed: self.tally.computed.load(Ordering::Relaxed),
            reused: self.tally.reused.load(Ordering::Relaxed),
        }
    }

    fn submit(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        // Unbounded, because a slow reader must not hold up the model; the
        // answer's length bounds it.
        let (parts, receiver) = mpsc::unbounded_channel();
        let job = Job { request, parts, span: Span::current() };
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => ModelError::Overloaded {
                model: self.name.clone(),
                retry_after: self.pace.wait_for(self.jobs.max_capacity()),
            },
            TrySendError::Closed(_) => failed(&self.name, "its thread has ended"),
        })?;
        Ok(parts_until_last(self.name.clone(), receiver))
    }
}

impl Generator for GgufGenerator {
    fn name(&self) -> &str {
        &self.name
    }

    fn check_alive(&self) -> Result<(), ModelError> {
        if self.jobs.is_closed() { Err(failed(&self.name, "its thread has ended")) } else { Ok(()) }
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.chat.count_tokens(text)
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerationStream, ModelError>> {
        std::future::ready(self.submit(request)).boxed()
    }
}

/// Ends after the usage or an error; a channel that closes before is an error itself.
fn parts_until_last(
    model: String,
    receiver: mpsc::UnboundedReceiver<Result<GeneratedPart, ModelError>>,
) -> GenerationStream {
    let next = move |receiver: Option<mpsc::UnboundedReceiver<_>>| {
        let model = model.clone();
        async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Ok(GeneratedPart::Text(text))) => Some((Ok(GeneratedPart::Text(text)), Some(receiver))),
                Some(last) => Some((last, None)),
                None => Some((Err(failed(&model, "its thread ended during the answer")), None)),
            }
        }
    };
    stream::unfold(Some(receiver), next).boxed()
}

fn failed(model: &str, reason: impl Into<String>) -> ModelError {
    ModelError::Failed { model: model.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_model_that_dies_during_an_answer_is_an_error() {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(Ok(GeneratedPart::Text("half".into()))).unwrap();
        drop(sender);
        let parts: Vec<_> = parts_until_last("m".into(), receiver).collect().await;
        assert_eq!(parts.len(), 2);
        assert!(matches!(&parts[1], Err(ModelError::Failed { model, .. }) if model == "m"));
    }
}
