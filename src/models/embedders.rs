//! Which embedder serves what.

use std::{collections::BTreeMap, sync::Arc};

use super::Embedder;

/// The loaded embedders by model type.
#[derive(Clone)]
pub struct Embedders {
    routes: BTreeMap<String, Arc<dyn Embedder>>,
}

impl Embedders {
    /// `routes` maps each model type to the embedder that serves it.
    pub fn new(routes: BTreeMap<String, Arc<dyn Embedder>>) -> Self {
        Self { routes }
    }

    /// The embedder of a model type such as `text-embedding`.
    pub fn of_type(&self, model_type: &str) -> Option<&Arc<dyn Embedder>> {
        self.routes.get(model_type)
    }

    /// The embedder of this catalog name.
    pub fn named(&self, model: &str) -> Option<&Arc<dyn Embedder>> {
        self.routes.values().find(|embedder| embedder.space().model == model)
    }

    /// The embedder whose vectors are comparable with those of this space.
    pub fn of_space(&self, space_id: &str) -> Option<&Arc<dyn Embedder>> {
        self.routes.values().find(|embedder| embedder.space().id == space_id)
    }

    /// Identifiers of the spaces that can be searched.
    pub fn spaces(&self) -> impl Iterator<Item = &str> {
        self.routes.values().map(|embedder| embedder.space().id.as_str())
    }

    /// Model types with the names of their embedders.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.routes.iter().map(|(name, embedder)| (name.as_str(), embedder.space().model.as_str()))
    }
}
