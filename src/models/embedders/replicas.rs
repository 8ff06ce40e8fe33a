//! Several embedders of one space that stand in for each other.
//!
//! That a server makes the same vectors is what the operator says; before its
//! first use each replica has to prove it on a sentence.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::sync::OnceCell;

use super::slot::Slot;
use crate::{
    config::EmbeddingSpace,
    models::{Embedder, Embeddings, EncodedImage, Lane, ModelError, TextRole, Token, vectors::cosine},
};

/// How long a replica that failed is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// What every replica embeds before its first use.
const PROBE: &str = "Two servers that hold the same weights give this sentence the same vector.";
/// Least cosine between two replicas' vectors of the probe: reduced precision passes, another model does not.
const SAME: f32 = 0.999;

/// Embedders of one space, in the order in which they are tried.
pub(super) struct Replicas {
    space: EmbeddingSpace,
    members: Vec<Member>,
    /// The probe's vector, made by the member that has the weights or else by the first that answered.
    reference: OnceCell<Vec<f32>>,
}

struct Member {
    slot: Arc<Slot>,
    proven: OnceCell<()>,
    paused_until: Mutex<Option<Instant>>,
}

impl Replicas {
    pub(super) fn new(space: EmbeddingSpace, slots: Vec<Arc<Slot>>) -> Self {
        let member = |slot| Member { slot, proven: OnceCell::new(), paused_until: Mutex::new(None) };
        Self { space, members: slots.into_iter().map(member).collect(), reference: OnceCell::new() }
    }

    /// The group as one embedder; fails when no member can be had.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Arc<dyn Embedder>, ModelError> {
        let mut failures = Vec::new();
        for member in &self.members {
            match member.slot.get().await {
                Ok(first) => return Ok(Arc::new(Group { replicas: Arc::clone(self), first })),
                Err(error) => failures.push(error.to_string()),
            }
        }
        Err(ModelError::NotLoaded { model: self.space.model.clone(), reason: failures.join("; ") })
    }

    /// Runs `work` on the first member that does it.
    async fn run(&self, work: impl Work) -> Result<Embeddings, ModelError> {
        let awake: Vec<&Member> = self.members.iter().filter(|member| !member.is_paused()).collect();
        // When all are paused, waiting for nothing would be worse than asking.
        let tried = if awake.is_empty() { self.members.iter().collect() } else { awake };
        let mut failures = Vec::new();
        for member in tried {
            match self.attempt(member, &work).await {
                Ok(embeddings) => return Ok(embeddings),
                Err(error) if stands_in(&error) => {
                    tracing::warn!(replica = member.slot.model, %error, "a replica failed: {error}");
                    member.pause();
                    failures.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        match <[ModelError; 1]>::try_from(failures) {
            Ok([error]) => Err(error),
            Err(failures) => Err(ModelError::Unavailable {
                model: self.space.model.clone(),
                reason: failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            }),
        }
    }

    async fn attempt(&self, member: &Member, work: &impl Work) -> Result<Embeddings, ModelError> {
        let embedder = member.slot.get().await?;
        member.proven.get_or_try_init(|| self.prove(member, embedder.as_ref())).await?;
        work.run(embedder.as_ref()).await
    }

    async fn prove(&self, member: &Member, embedder: &dyn Embedder) -> Result<(), ModelError> {
        let vector = probe(embedder).await?;
        let reference = self.reference.get_or_init(|| self.reference_or(vector.clone())).await;
        let cosine = cosine(reference, &vector);
        if cosine >= SAME {
            return Ok(());
        }
        Err(ModelError::NotLoaded {
            model: member.slot.model.clone(),
            reason: format!(
                "it is said to be a replica of `{}`, but a test sentence's vectors differ (cosine {cosine:.4}); \
                 check remote.same_space_as",
                self.space.model
            ),
        })
    }
}

impl Replicas {
    /// What the entry that names the space makes of the probe, where it is a member and works.
    async fn reference_or(&self, other: Vec<f32>) -> Vec<f32> {
        let namesake = self.members.iter().find(|member| member.slot.model == self.space.model);
        let Some(namesake) = namesake else { return other };
        match namesake.slot.get().await {
            Ok(embedder) => probe(embedder.as_ref()).await.unwrap_or(other),
            Err(_) => other,
        }
    }
}

async fn probe(embedder: &dyn Embedder) -> Result<Vec<f32>, ModelError> {
    let embedded = embedder.embed(vec![PROBE.to_owned()], TextRole::Passage, Lane::Interactive).await?;
    Ok(embedded.vectors.into_iter().next().unwrap_or_default())
}

impl Member {
    fn is_paused(&self) -> bool {
        let until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn pause(&self) {
        let mut until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + PAUSE);
    }
}

/// Whether another replica may do what this one did not.
fn stands_in(error: &ModelError) -> bool {
    match error {
        ModelError::Overloaded { .. }
        | ModelError::TimedOut { .. }
        | ModelError::Unavailable { .. }
        | ModelError::NotLoaded { .. }
        | ModelError::Failed { .. } => true,
        ModelError::Unfit { .. } | ModelError::BadImage { .. } => false,
    }
}

/// What a member is asked for, as often as it takes.
trait Work: Send + Sync {
    fn run<'a>(&self, embedder: &'a dyn Embedder) -> BoxFuture<'a, Result<Embeddings, ModelError>>;
}

struct Texts {
    texts: Vec<String>,
    role: TextRole,
    lane: Lane,
}

impl Work for Texts {
    fn run<'a>(&self, embedder: &'a dyn Embedder) -> BoxFuture<'a, Result<Embeddings, ModelError>> {
        embedder.embed(self.texts.clone(), self.role, self.lane)
    }
}

struct Images {
    images: Vec<EncodedImage>,
    lane: Lane,
}

impl Work for Images {
    fn run<'a>(&self, embedder: &'a dyn Embedder) -> BoxFuture<'a, Result<Embeddings, ModelError>> {
        embedder.embed_images(self.images.clone(), self.lane)
    }
}

/// Replicas with one of them that is loaded, for what needs no vectors.
struct Group {
    replicas: Arc<Replicas>,
    first: Arc<dyn Embedder>,
}

impl Embedder for Group {
    fn space(&self) -> &EmbeddingSpace {
        &self.replicas.space
    }

    fn max_tokens(&self) -> usize {
        self.first.max_tokens()
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.first.count_tokens(text)
    }

    fn tokenize(&self, text: &str, special: bool) -> Result<Vec<Token>, ModelError> {
        self.first.tokenize(text, special)
    }

    fn check_alive(&self) -> Result<(), ModelError> {
        self.first.check_alive()
    }

    fn reads_images(&self) -> bool {
        self.first.reads_images()
    }

    fn embed(
        &self,
        texts: Vec<String>,
        role: TextRole,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.replicas.run(Texts { texts, role, lane }).boxed()
    }

    fn embed_images(
        &self,
        images: Vec<EncodedImage>,
        lane: Lane,
    ) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        self.replicas.run(Images { images, lane }).boxed()
    }
}
