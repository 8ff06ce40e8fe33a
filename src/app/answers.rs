//! The answer backends of the catalog.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;

use super::supply::first_obtainable;
use crate::{
    assets::{Assets, ModelFiles},
    config::{Catalog, GgufEntry, LlmEntry},
    models::{
        candle::gguf::GgufGenerator,
        openai::OpenAiGenerator,
        router::{AnswerRouter, BackendSpec},
    },
};

/// The local backend with its folder; none is no error, for others and the extractive answer are left.
pub(super) async fn obtain_local(catalog: &Catalog, assets: &Assets) -> Result<Option<(GgufEntry, PathBuf)>> {
    let routes = [&catalog.routes.answer].into_iter().chain(catalog.routes.answer_by_name.values());
    let backends = routes.flat_map(|route| &route.backends).filter_map(|name| catalog.llm(name));
    let entries: Vec<&GgufEntry> = backends
        .filter_map(|entry| match entry {
            LlmEntry::Candle(gguf) => Some(gguf),
            LlmEntry::Openai(_) => None,
        })
        .collect();
    let files: Vec<ModelFiles<'_>> = entries.iter().map(|entry| ModelFiles::from(*entry)).collect();
    let found = first_obtainable(&files, assets).await?;
    Ok(found.ok().map(|(index, folder)| (entries[index].clone(), folder)))
}

/// Loads the local backend and sets up the others that are configured.
pub(super) async fn load(catalog: &Catalog, local: Option<&(GgufEntry, PathBuf)>) -> Result<AnswerRouter> {
    let mut backends = Vec::new();
    for entry in &catalog.llms {
        match entry {
            LlmEntry::Openai(entry) => {
                let key = entry.api_key_env.as_ref().map(std::env::var);
                if let Some(Err(_)) = key {
                    tracing::debug!("{} is not configured: its key is not set", entry.name);
                    continue;
                }
                let key = key.and_then(Result::ok).map(Into::into);
                backends.push(BackendSpec::remote(Arc::new(OpenAiGenerator::new(entry, key)?), entry));
            }
            LlmEntry::Candle(entry) => {
                if let Some((_, folder)) = local.filter(|(found, _)| found.name == entry.name) {
                    backends.push(BackendSpec::local(Arc::new(GgufGenerator::load(entry, folder).await?)));
                }
            }
        }
    }
    Ok(AnswerRouter::with_routes(backends, &catalog.routes))
}
