//! Which embedder serves what, and loading each when it is first needed.
//!
//! Every entry of the catalog has a slot. A slot knows its space before its
//! model is loaded, so that a collection finds its model after a restart. Where
//! a model comes from, and which candidate serves a route, is a [`Supply`]'s
//! business.

mod replicas;
mod slot;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use self::{replicas::Replicas, slot::Slot};
use super::{Embedder, ModelError, scheduler::LaneStatus};
use crate::config::{Catalog, EmbeddingSpace};

/// Pause after a model could not be had: each attempt asks other servers.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Where embedders come from.
pub trait Supply: Send + Sync + 'static {
    /// The candidate that serves a model type, by its catalog name.
    ///
    /// Fails with [`ModelError::NotLoaded`] when none can be had.
    fn choose(&self, model_type: &str) -> BoxFuture<'_, Result<String, ModelError>>;

    /// Fetches what is missing and loads the entry of this name.
    fn load(&self, model: &str) -> BoxFuture<'_, Result<Arc<dyn Embedder>, ModelError>>;
}

/// The embedders by model type and by name; cheap to clone.
#[derive(Clone)]
pub struct Embedders {
    slots: Arc<BTreeMap<String, Arc<Slot>>>,
    routes: Arc<BTreeMap<String, Route>>,
    /// Replicas by their common space.
    groups: Arc<BTreeMap<String, Arc<Replicas>>>,
}

/// A model type and what serves it.
struct Route {
    candidates: Vec<String>,
    chosen: OnceCell<String>,
    /// Why no candidate could be had, and when that was.
    failed: Mutex<Option<(ModelError, Instant)>>,
}

impl Route {
    fn new(candidates: Vec<String>, chosen: Option<String>) -> Self {
        Self { candidates, chosen: OnceCell::new_with(chosen), failed: Mutex::default() }
    }

    /// The failure of a choice, until it is worth another attempt.
    fn failure(&self) -> Option<ModelError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(_, at)| at.elapsed() < RETRY_AFTER).map(|(error, _)| error.clone())
    }

    fn remember(&self, error: &ModelError) {
        // A database that is away is no reason to wait.
        if matches!(error, ModelError::NotLoaded { .. }) {
            *self.failed.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((error.clone(), Instant::now()));
        }
    }
}

/// What is known of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// Nothing has needed it yet.
    Waiting,
    Loading,
    Loaded,
    /// Why it could not be loaded; it is tried again when it is needed.
    Failed(String),
}

/// A model type with its model, where one was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStatus {
    pub model_type: String,
    pub model: Option<String>,
    pub state: ModelState,
}

impl Embedders {
    /// Loaded embedders by the model type that each serves.
    pub fn new(routes: BTreeMap<String, Arc<dyn Embedder>>) -> Self {
        let slots = routes
            .values()
            .map(|embedder| (embedder.space().model.clone(), Arc::new(Slot::loaded(Arc::clone(embedder)))));
        let slots = Arc::new(slots.collect());
        let routes = routes.into_iter().map(|(model_type, embedder)| {
            let name = embedder.space().model.clone();
            (model_type, Route::new(vec![name.clone()], Some(name)))
        });
        Self { slots, routes: Arc::new(routes.collect()), groups: Arc::default() }
    }

    /// Everything in the catalog, each loaded when it is first needed.
    pub fn on_demand(catalog: &Catalog, supply: &Arc<dyn Supply>) -> Self {
        let slots = catalog.embedders.iter().map(|entry| {
            let slot = Slot::waiting(&entry.name, catalog.space_of(entry), Arc::clone(supply));
            (entry.name.clone(), Arc::new(slot))
        });
        let slots: BTreeMap<String, Arc<Slot>> = slots.collect();
        let mut groups = BTreeMap::new();
        for route in catalog.routes.embed.values().filter(|route| !route.replicas.is_empty()) {
            let mut members: Vec<Arc<Slot>> = Vec::new();
            for name in route.candidates.iter().chain(&route.replicas) {
                let known = members.iter().any(|slot| slot.model == *name);
                members.extend(slots.get(name).filter(|_| !known).cloned());
            }
            if let Some(first) = members.first() {
                groups.insert(first.space.id.clone(), Arc::new(Replicas::new(first.space.clone(), members)));
            }
        }
        let routes = catalog
            .routes
            .embed
            .iter()
            .map(|(model_type, route)| (model_type.clone(), Route::new(route.candidates.clone(), None)));
        Self { slots: Arc::new(slots), routes: Arc::new(routes.collect()), groups: Arc::new(groups) }
    }

    /// Fails when a thread of a loaded model is not well.
    pub fn check_alive(&self) -> Result<(), ModelError> {
        self.slots.values().try_for_each(|slot| slot.check_alive())
    }

    /// The embedder of a model type such as `text-embedding`; `None` where there is no such type.
    pub async fn of_type(&self, model_type: &str) -> Option<Result<Arc<dyn Embedder>, ModelError>> {
        let name = match self.chosen(model_type).await? {
            Ok(name) => name,
            Err(error) => return Some(Err(error)),
        };
        self.named(&name).await
    }

    /// The embedder of this catalog name; `None` where there is no such entry.
    pub async fn named(&self, model: &str) -> Option<Result<Arc<dyn Embedder>, ModelError>> {
        let slot = self.slots.get(model)?;
        match self.groups.get(&slot.space.id) {
            Some(group) => Some(group.open().await),
            None => Some(slot.get().await),
        }
    }

    /// The embedder whose vectors are comparable with those of this space.
    pub async fn of_space(&self, space_id: &str) -> Option<Result<Arc<dyn Embedder>, ModelError>> {
        let slot = self.slots.values().find(|slot| slot.space.id == space_id)?;
        self.named(&slot.model).await
    }

    /// The space of a model, whether or not it is loaded.
    pub fn space_of(&self, model: &str) -> Option<&EmbeddingSpace> {
        Some(&self.slots.get(model)?.space)
    }

    /// The model that serves a type, chosen now if it was not before; nothing is loaded.
    pub async fn chosen(&self, model_type: &str) -> Option<Result<String, ModelError>> {
        let route = self.routes.get(model_type)?;
        let choose = || async {
            // Asked under the cell's lock: of many callers one asks the sources.
            if let Some(error) = route.failure() {
                return Err(error);
            }
            let chosen = match route.candidates.iter().find_map(|name| self.slots.get(name)?.supply()) {
                Some(supply) => supply.choose(model_type).await,
                None => Err(ModelError::NotLoaded {
                    model: model_type.to_owned(),
                    reason: "it has no candidates".into(),
                }),
            };
            chosen.inspect_err(|error| route.remember(error))
        };
        Some(route.chosen.get_or_try_init(choose).await.cloned())
    }

    /// Identifiers of the spaces that can be searched.
    pub fn spaces(&self) -> impl Iterator<Item = &str> {
        self.slots.values().map(|slot| slot.space.id.as_str())
    }

    /// Names of the models with what is known of each.
    pub fn models(&self) -> impl Iterator<Item = (&str, ModelState)> {
        self.slots.iter().map(|(name, slot)| (name.as_str(), slot.state()))
    }

    /// Names with what the queues of each hold, of the models that are loaded here.
    pub fn lanes(&self) -> impl Iterator<Item = (&str, LaneStatus)> {
        let loaded = self.slots.iter().filter_map(|(name, slot)| Some((name.as_str(), slot.ready()?)));
        loaded.flat_map(|(name, embedder)| embedder.lanes().into_iter().map(move |lane| (name, lane)))
    }

    /// Model types with their models.
    pub fn routes(&self) -> impl Iterator<Item = RouteStatus> + '_ {
        self.routes.iter().map(|(model_type, route)| {
            let model = route.chosen.get().cloned();
            let slot = model.as_ref().and_then(|name| self.slots.get(name));
            RouteStatus {
                model_type: model_type.clone(),
                state: match (slot, route.failure()) {
                    (Some(slot), _) => slot.state(),
                    (None, Some(error)) => ModelState::Failed(error.to_string()),
                    (None, None) => ModelState::Waiting,
                },
                model,
            }
        })
    }
}

#[cfg(test)]
mod tests;
