//! A GGUF language model on a thread of its own.

use std::{
    fs::File,
    io::BufReader,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use candle_core::{Tensor, quantized::gguf_file::Content};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};
use tracing::Span;

use super::{
    chat::ChatFormat,
    decoder::{Decoder, prompt_chunks},
    repack::repack,
};
use crate::{
    config::GgufEntry,
    models::{GenerateRequest, GeneratedPart, GenerationStream, Generator, ModelError, Usage},
};

/// Shortest run of tokens that counts as a repetition.
const SHORTEST_REPETITION: usize = 8;

/// A local language model. Dropping it ends its thread after the generation in progress.
pub struct GgufGenerator {
    name: String,
    context_tokens: usize,
    chat: Arc<ChatFormat>,
    jobs: mpsc::Sender<Job>,
    pace: Arc<Pace>,
}

/// One request on its way to the model's thread.
struct Job {
    request: GenerateRequest,
    parts: mpsc::UnboundedSender<Result<GeneratedPart, ModelError>>,
    span: Span,
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
        let pace = Arc::new(Pace::default());

        let worker = Worker { name: name.clone(), context_tokens, pace: Arc::clone(&pace) };
        thread::Builder::new()
            .name(format!("llm {name}"))
            .spawn(move || worker.run(&path, loaded, queue))
            .map_err(|error| failed(&name, format!("its thread cannot be started: {error}")))?;
        let chat = ready.await.unwrap_or_else(|_| Err(failed(&name, "its thread ended while loading")))?;
        Ok(Self { name, context_tokens, chat, jobs, pace })
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

/// How long generations took lately, to say when a full queue has room again.
#[derive(Debug, Default)]
struct Pace {
    average_ms: AtomicU64,
}

impl Pace {
    fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let before = self.average_ms.load(Ordering::Relaxed);
        let average = if before == 0 { took } else { (before.saturating_mul(3).saturating_add(took)) / 4 };
        self.average_ms.store(average, Ordering::Relaxed);
    }

    /// Time after which about half of `waiting` jobs are done; from 1 to 60 seconds.
    fn wait_for(&self, waiting: usize) -> Duration {
        let half = self.average_ms.load(Ordering::Relaxed).saturating_mul(waiting as u64) / 2;
        Duration::from_millis(half.clamp(1_000, 60_000))
    }
}

/// What the model's thread knows before the model is loaded.
struct Worker {
    name: String,
    context_tokens: usize,
    pace: Arc<Pace>,
}

impl Worker {
    fn run(
        self,
        path: &Path,
        loaded: oneshot::Sender<Result<Arc<ChatFormat>, ModelError>>,
        mut queue: mpsc::Receiver<Job>,
    ) {
        let mut engine = match Engine::load(path, self.context_tokens) {
            Ok(engine) => engine,
            Err(reason) => {
                let reason = format!("{} cannot be loaded: {reason}", path.display());
                // Nobody waits any more: nothing to report.
                let _ = loaded.send(Err(failed(&self.name, reason)));
                return;
            }
        };
        if loaded.send(Ok(Arc::clone(&engine.chat))).is_err() {
            return;
        }
        while let Some(job) = queue.blocking_recv() {
            if job.parts.is_closed() {
                continue;
            }
            let _entered = job.span.enter();
            let started = Instant::now();
            let outcome = engine.generate(&self.name, &job);
            engine.decoder.clear();
            self.pace.record(started.elapsed());
            let last = match outcome {
                Ok(usage) => Ok(GeneratedPart::Usage(usage)),
                Err(Stop::Error(error)) => Err(error),
                Err(Stop::CallerLeft) => continue,
            };
            let _ = job.parts.send(last);
        }
    }
}

/// Why a generation ended before its end.
enum Stop {
    CallerLeft,
    Error(ModelError),
}

/// The loaded model.
struct Engine {
    chat: Arc<ChatFormat>,
    decoder: Decoder,
    context_tokens: usize,
}

impl Engine {
    fn load(path: &Path, context_tokens: usize) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut source = BufReader::new(file);
        let content = Content::read(&mut source).map_err(|error| error.to_string())?;
        let chat = Arc::new(ChatFormat::from_gguf(&content)?);
        let (content, mut source) = repack(content, source).map_err(|error| error.to_string())?;
        let decoder = Decoder::from_gguf(content, &mut source).map_err(|error| error.to_string())?;
        if context_tokens > decoder.max_tokens() {
            return Err(format!(
                "context_tokens = {context_tokens} is more than its {} positions",
                decoder.max_tokens()
            ));
        }
        Ok(Self { chat, decoder, context_tokens })
    }

    fn generate(&mut self, name: &str, job: &Job) -> Result<Usage, Stop> {
        let broken = |reason: String| Stop::Error(failed(name, reason));
        let request = &job.request;
        let prompt = self.chat.encode(&request.messages).map_err(broken)?;
        self.check_fit(name, prompt.len(), request.max_tokens)?;

        let mut logits = self.read_prompt(&prompt, job, broken)?;
        let chat = Arc::clone(&self.chat);
        let mut text = chat.text_stream();
        let mut sampler = sampler(request);
        let mut answer = Vec::new();
        while answer.len() < request.max_tokens && !is_going_round(&answer) {
            if !answer.is_empty() {
                let position = prompt.len() + answer.len() - 1;
                let last = &answer[answer.len() - 1..];
                logits = self.decoder.forward(last, position).map_err(|error| broken(error.to_string()))?;
            }
            let token = sampler.sample(&logits).map_err(|error| broken(error.to_string()))?;
            if chat.ends_answer(token) {
                break;
            }
            answer.push(token);
            let part = text.step(token).map_err(|error| broken(error.to_string()))?;
            send(job, part)?;
        }
        Ok(Usage { prompt_tokens: prompt.len(), completion_tokens: answer.len() })
    }

    fn check_fit(&self, name: &str, prompt: usize, answer: usize) -> Result<(), Stop> {
        let context = self.context_tokens;
        if prompt + answer <= context {
            return Ok(());
        }
        Err(Stop::Error(ModelError::Unfit {
            model: name.to_owned(),
            reason: format!(
                "the prompt has {prompt} tokens and the answer may have {answer}, together more than the \
                 {context} of its context"
            ),
        }))
    }

    fn read_prompt(
        &mut self,
        prompt: &[u32],
        job: &Job,
        broken: impl Fn(String) -> Stop,
    ) -> Result<Tensor, Stop> {
        let mut logits = None;
        for chunk in prompt_chunks(prompt.len()) {
            send(job, None)?;
            let position = chunk.start;
            let forward = self.decoder.forward(&prompt[chunk], position);
            logits = Some(forward.map_err(|error| broken(error.to_string()))?);
        }
        logits.ok_or_else(|| broken("the prompt is empty".to_owned()))
    }
}

/// Sends a part of the answer; fails when the caller has left.
fn send(job: &Job, part: Option<String>) -> Result<(), Stop> {
    let left = match part {
        Some(text) => job.parts.send(Ok(GeneratedPart::Text(text))).is_err(),
        None => job.parts.is_closed(),
    };
    if left { Err(Stop::CallerLeft) } else { Ok(()) }
}

fn sampler(request: &GenerateRequest) -> LogitsProcessor {
    let sampling = if request.temperature > 0.0 {
        Sampling::All { temperature: f64::from(request.temperature) }
    } else {
        Sampling::ArgMax
    };
    LogitsProcessor::from_sampling(request.seed.unwrap_or_else(rand::random), sampling)
}

/// Whether the last tokens are one run of eight or more, three times over.
///
/// Greedy decoding of a small model falls into such loops and never leaves
/// them; what follows would be the same text up to the limit. Prose does not
/// repeat eight tokens three times in a row.
fn is_going_round(tokens: &[u32]) -> bool {
    (SHORTEST_REPETITION..=tokens.len() / 3).any(|run| {
        let end = &tokens[tokens.len() - 3 * run..];
        end[..run] == end[run..2 * run] && end[run..2 * run] == end[2 * run..]
    })
}

fn failed(model: &str, reason: impl Into<String>) -> ModelError {
    ModelError::Failed { model: model.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_seen_at_its_third_round() {
        let prose: Vec<u32> = (0..100).map(|i| i * i % 101).collect();
        assert!(!is_going_round(&prose));
        let run: Vec<u32> = (0..11).collect();
        let twice = [prose.clone(), run.repeat(2)].concat();
        assert!(!is_going_round(&twice));
        let thrice = [prose, run.repeat(3)].concat();
        assert!(is_going_round(&thrice));
        assert!(!is_going_round(&[7; 23]));
        assert!(is_going_round(&[7; 24]));
    }

    #[test]
    fn the_wait_grows_with_the_time_generations_take() {
        let pace = Pace::default();
        assert_eq!(pace.wait_for(8), Duration::from_secs(1));
        pace.record(Duration::from_secs(4));
        assert_eq!(pace.wait_for(8), Duration::from_secs(16));
        pace.record(Duration::from_secs(8));
        assert_eq!(pace.wait_for(8), Duration::from_secs(20));
        pace.record(Duration::from_secs(3600));
        assert_eq!(pace.wait_for(8), Duration::from_secs(60));
    }

    #[test]
    fn a_caller_that_left_stops_the_work() {
        let (parts, receiver) = mpsc::unbounded_channel();
        let request = GenerateRequest { max_tokens: 1, ..GenerateRequest::default() };
        let job = Job { request, parts, span: Span::none() };
        assert!(send(&job, None).is_ok());
        assert!(send(&job, Some("text".into())).is_ok());
        drop(receiver);
        assert!(matches!(send(&job, None), Err(Stop::CallerLeft)));
        assert!(matches!(send(&job, Some("text".into())), Err(Stop::CallerLeft)));
    }

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
