use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::{
    config::BUILT_IN,
    models::{Embeddings, Lane, TextRole, Token},
};

/// Makes no vectors; only its space matters here.
struct Named(EmbeddingSpace);

impl Embedder for Named {
    fn space(&self) -> &EmbeddingSpace {
        &self.0
    }
    fn max_tokens(&self) -> usize {
        8
    }
    fn count_tokens(&self, _: &str) -> usize {
        1
    }
    fn tokenize(&self, _: &str, _: bool) -> Result<Vec<Token>, ModelError> {
        Ok(Vec::new())
    }
    fn embed(&self, _: Vec<String>, _: TextRole, _: Lane) -> BoxFuture<'_, Result<Embeddings, ModelError>> {
        async { Ok(Embeddings { vectors: Vec::new(), truncated: Vec::new(), tokens: Vec::new() }) }.boxed()
    }
}

struct Counting {
    catalog: Catalog,
    choices: AtomicUsize,
    loads: AtomicUsize,
    fails: bool,
}

impl Supply for Counting {
    fn choose(&self, model_type: &str) -> BoxFuture<'_, Result<String, ModelError>> {
        self.choices.fetch_add(1, Ordering::SeqCst);
        let first = self.catalog.routes.embed[model_type].candidates[0].clone();
        let chosen = match model_type {
            "image-embedding" => Err(ModelError::NotLoaded { model: first, reason: "no source".into() }),
            _ => Ok(first),
        };
        async { chosen }.boxed()
    }

    fn load(&self, model: &str) -> BoxFuture<'_, Result<Arc<dyn Embedder>, ModelError>> {
        let space = self.catalog.space_of(self.catalog.embedder(model).unwrap());
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            self.loads.fetch_add(1, Ordering::SeqCst);
            if self.fails {
                return Err(ModelError::NotLoaded { model: space.model, reason: "no weights".into() });
            }
            Ok(Arc::new(Named(space)) as Arc<dyn Embedder>)
        }
        .boxed()
    }
}

fn counting(fails: bool) -> (Embedders, Arc<Counting>) {
    let catalog = Catalog::parse(BUILT_IN, "models.toml").unwrap();
    let supply =
        Arc::new(Counting { catalog, choices: AtomicUsize::new(0), loads: AtomicUsize::new(0), fails });
    let shared: Arc<dyn Supply> = supply.clone();
    (Embedders::on_demand(&supply.catalog, &shared), supply)
}

#[tokio::test]
async fn many_callers_one_load_under_type_name_and_space() {
    let (embedders, supply) = counting(false);
    assert_eq!(
        embedders.routes().find(|r| r.model_type == "text-embedding").unwrap().state,
        ModelState::Waiting
    );
    let space = embedders.space_of("all-MiniLM-L6-v2").unwrap().id.clone();
    let (by_type, by_name, by_space) = tokio::join!(
        embedders.of_type("text-embedding"),
        embedders.named("all-MiniLM-L6-v2"),
        embedders.of_space(&space),
    );
    for found in [by_type, by_name, by_space] {
        assert_eq!(found.unwrap().unwrap().space().id, space);
    }
    assert_eq!(supply.loads.load(Ordering::SeqCst), 1);
    let route = embedders.routes().find(|route| route.model_type == "text-embedding").unwrap();
    assert_eq!((route.state, route.model.as_deref()), (ModelState::Loaded, Some("all-MiniLM-L6-v2")));
}

#[tokio::test]
async fn a_load_goes_on_when_its_caller_leaves() {
    let (embedders, supply) = counting(false);
    let impatient =
        tokio::time::timeout(std::time::Duration::from_millis(1), embedders.of_type("text-embedding"));
    assert!(impatient.await.is_err());
    embedders.of_type("text-embedding").await.unwrap().unwrap();
    assert_eq!(supply.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failure_is_told_to_all_and_not_repeated_at_once() {
    let (embedders, supply) = counting(true);
    for _ in 0..3 {
        let error = embedders.of_type("text-embedding").await.unwrap().err().unwrap();
        assert!(matches!(error, ModelError::NotLoaded { .. }), "{error}");
    }
    assert_eq!(supply.loads.load(Ordering::SeqCst), 1);
    assert!(embedders.models().any(|(_, state)| matches!(state, ModelState::Failed(_))));
}

#[tokio::test]
async fn unknown_names_are_none() {
    let (embedders, _) = counting(false);
    assert!(embedders.of_type("nothing").await.is_none());
    assert!(embedders.named("nothing").await.is_none());
    assert!(embedders.of_space("nothing").await.is_none());
}

#[tokio::test]
async fn a_route_without_a_candidate_says_so_without_asking_every_time() {
    let (embedders, supply) = counting(false);
    for _ in 0..3 {
        let error = embedders.of_type("image-embedding").await.unwrap().err().unwrap();
        assert!(matches!(error, ModelError::NotLoaded { .. }), "{error}");
    }
    assert_eq!(supply.choices.load(Ordering::SeqCst), 1);
    let route = embedders.routes().find(|route| route.model_type == "image-embedding").unwrap();
    assert!(matches!(route.state, ModelState::Failed(_)), "{route:?}");
}
