//! The rerankers of the catalog.

use std::sync::Arc;

use crate::{
    assets::Assets,
    config::{Catalog, RerankerEntry, RerankerKind},
    models::{
        ModelError, Reranker, Rerankers, candle::bert::cross_encoder::CrossEncoder, remote::RemoteReranker,
        rerankers::Loaded,
    },
};

/// All of them; one that cannot be loaded says so to those who ask for it.
pub(super) async fn load(catalog: &Catalog, assets: &Assets) -> Rerankers {
    let mut entries = Vec::new();
    for entry in &catalog.rerankers {
        let loaded = load_entry(entry, assets).await;
        if let Err(error) = &loaded {
            tracing::warn!(reranker = entry.name, %error, "{} does not rerank: {error}", entry.name);
        }
        entries.push((entry.name.clone(), loaded));
    }
    Rerankers::new(entries, catalog.routes.rerank.candidates.clone())
}

async fn load_entry(entry: &RerankerEntry, assets: &Assets) -> Loaded {
    if entry.kind == RerankerKind::Remote {
        return Ok(Arc::new(RemoteReranker::new(entry)?));
    }
    let failed = |reason: String| ModelError::NotLoaded { model: entry.name.clone(), reason };
    let folder = assets.obtain(&entry.name, &entry.files, &entry.sources).await;
    let folder = folder.map_err(|error| failed(error.to_string()))?;
    let loading = entry.clone();
    let loaded = tokio::task::spawn_blocking(move || CrossEncoder::load(&loading, &folder)).await;
    let loaded = loaded.map_err(|error| failed(error.to_string()))??;
    Ok(Arc::new(loaded) as Arc<dyn Reranker>)
}
