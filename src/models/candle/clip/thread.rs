//! The towers on a thread of their own: work in, one-shot replies out.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use candle_core::Device;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::towers::Towers;
use crate::models::ModelError;

/// Texts and pictures that may wait for the model; more are refused at once.
const QUEUE: usize = 16_384;

/// What one forward pass reads.
pub(super) enum Work {
    /// Token ids.
    Texts(Vec<Vec<u32>>),
    /// Pixels of 3 × side × side.
    Images(Vec<Vec<f32>>),
}

pub(super) struct ModelThread {
    model: String,
    waiting: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
}

struct Job {
    work: Work,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, ModelError>>,
    span: tracing::Span,
}

/// A place in the queue.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl ModelThread {
    pub fn start(model: &str, towers: Towers) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let name = model.to_owned();
        thread::Builder::new().name(format!("embed-{model}")).spawn(move || {
            while let Ok(job) = inbox.recv() {
                if job.reply.is_closed() {
                    continue; // The caller left while its job waited.
                }
                let vectors = job.span.in_scope(|| Device::Cpu.with_context(|| run(&towers, &job.work)));
                let failed = |error: candle_core::Error| ModelError::Failed {
                    model: name.clone(),
                    reason: error.to_string(),
                };
                // An error here means that the caller left meanwhile.
                let _ = job.reply.send(vectors.map_err(failed));
            }
        })?;
        Ok(Self { model: model.to_owned(), waiting: Arc::new(Semaphore::new(QUEUE)), jobs })
    }

    /// A place for this many texts or pictures. A batch larger than the whole queue may still run alone.
    pub fn queue(&self, count: usize) -> Result<Place, ModelError> {
        let weight = u32::try_from(count.clamp(1, QUEUE)).unwrap_or(u32::MAX);
        match Arc::clone(&self.waiting).try_acquire_many_owned(weight) {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => {
                Err(ModelError::Overloaded { model: self.model.clone(), retry_after: Duration::from_secs(1) })
            }
        }
    }

    /// One forward pass: a vector for each text or picture.
    pub async fn run(&self, work: Work) -> Result<Vec<Vec<f32>>, ModelError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || ModelError::Failed {
            model: self.model.clone(),
            reason: "its thread has stopped; restart ragway".into(),
        };
        let job = Job { work, reply, span: tracing::Span::current() };
        self.jobs.send(job).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn run(towers: &Towers, work: &Work) -> candle_core::Result<Vec<Vec<f32>>> {
    let vectors = match work {
        Work::Texts(texts) => {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            towers.text.forward(&texts)?
        }
        Work::Images(images) => {
            let images: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
            towers.image.forward(&images)?
        }
    };
    let vectors: Vec<Vec<f32>> = vectors.to_vec2()?;
    if vectors.iter().flatten().all(|value| value.is_finite()) {
        Ok(vectors)
    } else {
        Err(candle_core::Error::Msg("a vector holds a number that is not finite".into()))
    }
}
