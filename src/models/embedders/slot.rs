//! One model that is loaded once, however many wait for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::{Embedder, ModelError, ModelState, RETRY_AFTER, Supply};
use crate::config::EmbeddingSpace;

type Loading = Shared<BoxFuture<'static, Result<Arc<dyn Embedder>, ModelError>>>;

/// A catalog entry, loaded or not.
pub(super) struct Slot {
    /// The name of the entry; its space may be that of another one.
    pub(super) model: String,
    pub(super) space: EmbeddingSpace,
    supply: Option<Arc<dyn Supply>>,
    load: Mutex<Load>,
}

enum Load {
    Waiting,
    Running(Loading),
    Loaded(Arc<dyn Embedder>),
    Failed(ModelError, Instant),
}

impl Slot {
    pub(super) fn loaded(embedder: Arc<dyn Embedder>) -> Self {
        let space = embedder.space().clone();
        Self { model: space.model.clone(), space, supply: None, load: Mutex::new(Load::Loaded(embedder)) }
    }

    pub(super) fn waiting(model: &str, space: EmbeddingSpace, supply: Arc<dyn Supply>) -> Self {
        Self { model: model.to_owned(), space, supply: Some(supply), load: Mutex::new(Load::Waiting) }
    }

    pub(super) fn supply(&self) -> Option<&Arc<dyn Supply>> {
        self.supply.as_ref()
    }

    /// The model where it is loaded.
    pub(super) fn ready(&self) -> Option<Arc<dyn Embedder>> {
        match &*self.lock() {
            Load::Loaded(embedder) => Some(Arc::clone(embedder)),
            Load::Waiting | Load::Running(_) | Load::Failed(..) => None,
        }
    }

    pub(super) fn state(&self) -> ModelState {
        match &*self.lock() {
            Load::Waiting => ModelState::Waiting,
            Load::Running(_) => ModelState::Loading,
            Load::Loaded(_) => ModelState::Loaded,
            Load::Failed(error, _) => ModelState::Failed(error.to_string()),
        }
    }

    /// Fails when the model is loaded and its threads are not well.
    pub(super) fn check_alive(&self) -> Result<(), ModelError> {
        match &*self.lock() {
            Load::Loaded(embedder) => embedder.check_alive(),
            Load::Waiting | Load::Running(_) | Load::Failed(..) => Ok(()),
        }
    }

    /// The model; the first caller starts the load, which goes on when its callers leave.
    pub(super) async fn get(&self) -> Result<Arc<dyn Embedder>, ModelError> {
        let loading = match self.begin() {
            Ok(ready) => return ready,
            Err(loading) => loading,
        };
        let result = loading.await;
        let mut load = self.lock();
        if matches!(*load, Load::Running(_)) {
            *load = match &result {
                Ok(embedder) => Load::Loaded(Arc::clone(embedder)),
                Err(error) => Load::Failed(error.clone(), Instant::now()),
            };
        }
        result
    }

    /// What is there already, else the load to wait for.
    fn begin(&self) -> Result<Result<Arc<dyn Embedder>, ModelError>, Loading> {
        let mut load = self.lock();
        match &*load {
            Load::Loaded(embedder) => return Ok(Ok(Arc::clone(embedder))),
            Load::Running(loading) => return Err(loading.clone()),
            Load::Failed(error, at) if at.elapsed() < RETRY_AFTER => return Ok(Err(error.clone())),
            Load::Waiting | Load::Failed(..) => {}
        }
        let name = self.model.clone();
        let Some(supply) = self.supply.clone() else {
            return Ok(Err(ModelError::NotLoaded { model: name, reason: "it has no source".into() }));
        };
        let wanted = name.clone();
        let task = tokio::spawn(async move { supply.load(&wanted).await });
        let loading = async move {
            task.await.unwrap_or_else(|error| {
                Err(ModelError::Failed { model: name, reason: format!("loading it ended early: {error}") })
            })
        };
        let loading = loading.boxed().shared();
        *load = Load::Running(loading.clone());
        Err(loading)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Load> {
        // Every change is a single assignment, so a panic elsewhere leaves nothing half done.
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
