//! The answer backends of the catalog.

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;

use super::supply::first_obtainable;
use crate::{
    assets::{Assets, ModelFiles},
    config::{Catalog, GgufEntry, LlmEntry},
    models::{Generator, candle::gguf::GgufGenerator, openai::OpenAiGenerator, router::AnswerRouter},
};

/// The local backend with its folder; none is no error, for others and the extractive answer are left.
pub(super) async fn obtain_local(catalog: &Catalog, assets: &Assets) -> Result<Option<(GgufEntry, PathBuf)>> {
    let backends = catalog.routes.answer.backends.iter().filter_map(|name| catalog.llm(name));
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

/// Loads the local backend and sets up the others that are configured, in the order of the route.
pub(super) async fn load(catalog: &Catalog, local: Option<&(GgufEntry, PathBuf)>) -> Result<AnswerRouter> {
    let mut backends: Vec<Arc<dyn Generator>> = Vec::new();
    for name in &catalog.routes.answer.backends {
        match catalog.llm(name) {
            Some(LlmEntry::Openai(entry)) => {
                let key = entry.api_key_env.as_ref().map(std::env::var);
                match key {
                    Some(Err(_)) => tracing::debug!("{name} is not configured: its key is not set"),
                    Some(Ok(key)) => backends.push(Arc::new(OpenAiGenerator::new(entry, Some(key.into()))?)),
                    None => backends.push(Arc::new(OpenAiGenerator::new(entry, None)?)),
                }
            }
            Some(LlmEntry::Candle(entry)) => {
                if let Some((_, folder)) = local.filter(|(found, _)| found.name == entry.name) {
                    backends.push(Arc::new(GgufGenerator::load(entry, folder).await?));
                }
            }
            None => {}
        }
    }
    Ok(AnswerRouter::new(backends))
}
