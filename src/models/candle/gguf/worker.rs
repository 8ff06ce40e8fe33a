//! The thread that a model's answers are written on.

use std::{
    fs::File,
    io::BufReader,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use candle_core::quantized::gguf_file::Content;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

use super::{
    chat::ChatFormat, decoder::Decoder, failed, pace::Pace, sampler::Sampler, sequences::Sequences,
    stop::StopStrings,
};
use crate::models::{GenerateRequest, GeneratedPart, ModelError, Usage};

/// Shortest run of tokens that counts as a repetition.
const SHORTEST_REPETITION: usize = 8;

/// One request on its way to the model's thread.
pub struct Job {
    pub request: GenerateRequest,
    pub parts: mpsc::UnboundedSender<Result<GeneratedPart, ModelError>>,
    pub span: Span,
}

impl Job {
    /// Sends a part of the answer, if it is any; fails when the caller has left.
    fn send(&self, text: String) -> Result<(), Stop> {
        let left = match text.is_empty() {
            true => self.parts.is_closed(),
            false => self.parts.send(Ok(GeneratedPart::Text(text))).is_err(),
        };
        if left { Err(Stop::CallerLeft) } else { Ok(()) }
    }
}

/// Tokens so far, for whoever asks.
#[derive(Debug, Default)]
pub struct Tally {
    pub computed: AtomicUsize,
    pub reused: AtomicUsize,
}

/// What the model's thread knows before the model is loaded.
pub struct Worker {
    pub name: String,
    pub context_tokens: usize,
    pub kept_prompts: usize,
    pub pace: Arc<Pace>,
    pub tally: Arc<Tally>,
}

impl Worker {
    /// Loads the model, says so, and answers what comes until nothing more can.
    pub fn run(
        self,
        path: &Path,
        loaded: oneshot::Sender<Result<Arc<ChatFormat>, ModelError>>,
        mut queue: mpsc::Receiver<Job>,
    ) {
        let mut engine = match Engine::load(path, &self) {
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
    sequences: Sequences,
    context_tokens: usize,
    tally: Arc<Tally>,
}

impl Engine {
    fn load(path: &Path, worker: &Worker) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let mut source = BufReader::new(file);
        let content = Content::read(&mut source).map_err(|error| error.to_string())?;
        let chat = Arc::new(ChatFormat::from_gguf(&content)?);
        let context_tokens = worker.context_tokens;
        let threads = rayon::current_num_threads();
        let decoder = Decoder::from_gguf(&content, &mut source, context_tokens, threads)?;
        let memories = (0..worker.kept_prompts.max(1)).map(|_| decoder.memory(context_tokens));
        let sequences = Sequences::new(memories.collect());
        Ok(Self { chat, decoder, sequences, context_tokens, tally: Arc::clone(&worker.tally) })
    }

    fn generate(&mut self, name: &str, job: &Job) -> Result<Usage, Stop> {
        let broken = |reason: String| Stop::Error(failed(name, reason));
        let request = &job.request;
        let prompt = self.chat.encode(&request.messages).map_err(broken)?;
        self.check_fit(name, prompt.len(), request.max_tokens)?;
        let sequence = self.sequences.begin(&prompt);
        let sequence = sequence.filter(|_| !prompt.is_empty());
        let sequence = sequence.ok_or_else(|| broken("the prompt is empty".to_owned()))?;
        self.tally.reused.fetch_add(sequence.tokens.len(), Ordering::Relaxed);

        let mut text = self.chat.text_stream();
        let mut sampler = Sampler::new(request);
        let mut stop = StopStrings::new(&request.stop);
        let (mut answer, mut unread) = (Vec::new(), prompt[sequence.tokens.len()..].to_vec());
        while answer.len() < request.max_tokens && !stop.ended() && !is_going_round(&answer) {
            let logits = self.decoder.read(&unread, sequence, &|| !job.parts.is_closed());
            let token = logits.map(|logits| sampler.sample(logits));
            self.tally.computed.store(self.decoder.computed(), Ordering::Relaxed);
            let token = token.map_err(|_| Stop::CallerLeft)?;
            if self.chat.ends_answer(token) {
                break;
            }
            answer.push(token);
            let part = text.step(token).map_err(|error| broken(error.to_string()))?;
            job.send(stop.push(&part.unwrap_or_default()))?;
            unread = vec![token];
        }
        job.send(stop.finish())?;
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
    fn a_caller_that_left_stops_the_work() {
        let (parts, receiver) = mpsc::unbounded_channel();
        let request = GenerateRequest { max_tokens: 1, ..GenerateRequest::default() };
        let job = Job { request, parts, span: Span::none() };
        assert!(job.send(String::new()).is_ok());
        assert!(job.send("text".into()).is_ok());
        drop(receiver);
        assert!(matches!(job.send(String::new()), Err(Stop::CallerLeft)));
        assert!(matches!(job.send("text".into()), Err(Stop::CallerLeft)));
    }
}
