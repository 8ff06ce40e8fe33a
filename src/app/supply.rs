//! Where embedders come from: files through [`Assets`], choices through the database.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    assets::{AssetError, Assets, ModelFiles},
    config::{Catalog, EmbedderEntry, EmbedderKind, PinnedFile},
    models::{Embedder, ModelError, candle::bert::BertEmbedder, embedders::Supply, remote::RemoteEmbedder},
    store::{RouteChoice, Store},
};

/// Loads entries of a catalog.
pub(super) struct CatalogSupply {
    catalog: Arc<Catalog>,
    assets: Assets,
    store: Store,
}

impl CatalogSupply {
    pub(super) fn new(catalog: Arc<Catalog>, assets: Assets, store: Store) -> Self {
        Self { catalog, assets, store }
    }

    /// A choice is made once and recorded: a later replica that finds other weights must not
    /// fill the route's collections with vectors of another space.
    async fn choose_candidate(&self, model_type: &str) -> Result<String, ModelError> {
        let failed = |reason: String| ModelError::NotLoaded { model: model_type.to_owned(), reason };
        let route =
            self.catalog.routes.embed.get(model_type).ok_or_else(|| failed("no such route".into()))?;
        let unavailable = |error: crate::store::StoreError| ModelError::Unavailable {
            model: model_type.to_owned(),
            reason: error.to_string(),
        };
        let recorded = self.store.route_choice(model_type).await.map_err(unavailable)?;
        if let Some(recorded) = recorded.filter(|choice| route.candidates.contains(&choice.model)) {
            return self.agree(model_type, recorded);
        }
        let weights = candidates(&self.catalog, &route.candidates);
        let found =
            first_obtainable(&weights, &self.assets).await.map_err(|error| failed(error.to_string()))?;
        let (index, _) = found.map_err(|failures| failed(all_said(&failures)))?;
        let name = weights[index].name;
        let entry = self.catalog.embedder(name).ok_or_else(|| failed("no such model".into()))?;
        let choice = RouteChoice { model: entry.name.clone(), space: self.catalog.space_of(entry).id };
        let recorded =
            self.store.record_route(model_type, &choice, &route.candidates).await.map_err(unavailable)?;
        tracing::info!(model_type, model = recorded.model, "{model_type} is served by {}", recorded.model);
        self.agree(model_type, recorded)
    }

    /// The recorded choice, if this catalog would make the same vectors with it.
    fn agree(&self, model_type: &str, recorded: RouteChoice) -> Result<String, ModelError> {
        let space = self.catalog.embedder(&recorded.model).map(|entry| self.catalog.space_of(entry).id);
        if space.as_ref() == Some(&recorded.space) {
            return Ok(recorded.model);
        }
        Err(ModelError::NotLoaded {
            model: recorded.model,
            reason: format!(
                "the route `{model_type}` was set up with the space `{}`, this models.toml would make `{}`; \
                 give the changed entry a name of its own and name it in the route's candidates",
                recorded.space,
                space.unwrap_or_default()
            ),
        })
    }

    async fn load_entry(&self, name: &str) -> Result<Arc<dyn Embedder>, ModelError> {
        let failed = |reason: String| ModelError::NotLoaded { model: name.to_owned(), reason };
        let entry = self.catalog.embedder(name).ok_or_else(|| failed("no such entry".into()))?.clone();
        let space = self.catalog.space_of(&entry);
        if entry.kind == EmbedderKind::Remote {
            return Ok(Arc::new(RemoteEmbedder::new(&entry, space)?));
        }
        let folder = self
            .assets
            .obtain(&entry.name, &entry.files, &entry.sources)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let loaded = tokio::task::spawn_blocking(move || load_local(&entry, &folder)).await;
        loaded.map_err(|error| failed(error.to_string()))?
    }
}

impl Supply for CatalogSupply {
    fn choose(&self, model_type: &str) -> BoxFuture<'_, Result<String, ModelError>> {
        let model_type = model_type.to_owned();
        async move { self.choose_candidate(&model_type).await }.boxed()
    }

    fn load(&self, model: &str) -> BoxFuture<'_, Result<Arc<dyn Embedder>, ModelError>> {
        let model = model.to_owned();
        async move { self.load_entry(&model).await }.boxed()
    }
}

/// Loads an in-process model. Blocks.
fn load_local(entry: &EmbedderEntry, folder: &std::path::Path) -> Result<Arc<dyn Embedder>, ModelError> {
    check_memory(entry, folder)?;
    Ok(match entry.kind {
        EmbedderKind::Bert => Arc::new(BertEmbedder::load(entry, folder)?),
        EmbedderKind::Clip | EmbedderKind::Remote => {
            return Err(ModelError::Failed {
                model: entry.name.clone(),
                reason: format!("kind `{}` does not run in this process", entry.kind.name()),
            });
        }
    })
}

fn check_memory(entry: &EmbedderEntry, folder: &std::path::Path) -> Result<(), ModelError> {
    let Some(limit) = entry.memory_limit_mb else { return Ok(()) };
    let size = |file: &PinnedFile| folder.join(&file.name).metadata().map_or(0, |metadata| metadata.len());
    let megabytes = entry.files.iter().map(size).sum::<u64>() >> 20;
    if megabytes <= limit {
        return Ok(());
    }
    Err(ModelError::NotLoaded {
        model: entry.name.clone(),
        reason: format!("its files take {megabytes} MB, memory_limit_mb in models.toml allows {limit}"),
    })
}

/// The weights of a route's candidates.
pub(super) fn candidates<'a>(catalog: &'a Catalog, names: &[String]) -> Vec<ModelFiles<'a>> {
    let entries = names.iter().filter_map(|name| catalog.embedder(name));
    entries.map(ModelFiles::from).collect()
}

/// Index and folder of the first that is there, else of the first that can be
/// fetched, else what each said. What needs no files is always there.
pub(super) async fn first_obtainable(
    candidates: &[ModelFiles<'_>],
    assets: &Assets,
) -> Result<Result<(usize, PathBuf), Vec<AssetError>>> {
    for (index, weights) in candidates.iter().enumerate() {
        if weights.files.is_empty() {
            return Ok(Ok((index, PathBuf::new())));
        }
        if let Some(folder) = assets.locate(weights.name, weights.files, weights.sources)? {
            return Ok(Ok((index, folder)));
        }
    }
    let mut failures = Vec::new();
    for (index, weights) in candidates.iter().enumerate() {
        match assets.obtain(weights.name, weights.files, weights.sources).await {
            Ok(folder) => return Ok(Ok((index, folder))),
            Err(error) => {
                tracing::debug!("{error}");
                tracing::warn!("{} is left out: it cannot be fetched", weights.name);
                failures.push(error);
            }
        }
    }
    Ok(Err(failures))
}

/// What each candidate said.
pub(super) fn all_said(failures: &[AssetError]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
