//! Answers are recorded and rated; what deleted documents said is not kept.

use ragway::{
    rag::{Caller, evaluate::evaluate_feedback},
    store::{NewAnswer, QuotedPassage, RatedAnswer, Rating, TenantId},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{TestApp, execute, good, problem};

const QUESTION: &str = "What does it cost to take a bicycle?";

/// Asks, and says that the answer is good.
async fn rated(app: &TestApp, question: &str) -> Value {
    let answer = good(app.ask(json!({"question": question})).await).await;
    good(rate(app, json!({"answer_id": answer["answer_id"], "rating": "up", "comment": "Good!"})).await)
        .await;
    answer
}

async fn rate(app: &TestApp, body: Value) -> reqwest::Response {
    app.post("/api/v1/feedback").json(&body).send().await.unwrap()
}

async fn all(app: &TestApp) -> Vec<RatedAnswer> {
    app.rag.rated_answers(Caller::DEFAULT, None, 100).await.unwrap()
}

#[tokio::test]
async fn the_last_rating_of_an_answer_is_kept_with_what_was_answered() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let answer = rated(&app, QUESTION).await;
    let again = json!({"answer_id": answer["answer_id"], "rating": "down"});
    assert_eq!(good(rate(&app, again.clone()).await).await, again);
    let kept = all(&app).await;
    assert_eq!(kept.len(), 1);
    let kept = &kept[0];
    assert_eq!((kept.rating, kept.comment.as_deref()), (Rating::Down, None));
    assert_eq!(kept.question.as_deref(), Some(QUESTION));
    assert_eq!(kept.answer.as_deref(), answer["answer"].as_str());
    assert_eq!((kept.method.as_str(), kept.backend.as_str()), ("extractive", "extractive"));
    let cited: Vec<String> = kept.citations.iter().map(|place| place.passage.to_string()).collect();
    assert!(cited.contains(&answer["citations"][0]["passage_id"].as_str().unwrap().to_owned()), "{cited:?}");
}

#[tokio::test]
async fn an_answer_of_another_tenant_looks_unknown() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let answer = good(app.ask(json!({"question": QUESTION})).await).await;
    let id: Uuid = answer["answer_id"].as_str().unwrap().parse().unwrap();
    let stranger = Caller::from(TenantId(Uuid::now_v7()));
    assert!(app.rag.rate(stranger, id, Rating::Down, None).await.is_err());
    let unknown = json!({"answer_id": Uuid::now_v7(), "rating": "up"});
    problem(rate(&app, unknown).await, 404, "unknown_answer").await;
    assert!(all(&app).await.is_empty());
}

#[tokio::test]
async fn wrong_feedback_is_told_what_is_wrong() {
    let app = TestApp::start().await;
    let id = Uuid::now_v7();
    for body in [
        json!({"answer_id": id, "rating": "meh"}),
        json!({"answer_id": "7", "rating": "up"}),
        json!({"answer_id": id}),
        json!({"answer_id": id, "rating": "up", "stars": 5}),
        json!({"answer_id": id, "rating": "up", "comment": "a\u{0}"}),
        json!({"answer_id": id, "rating": "up", "comment": "é".repeat(4001)}),
    ] {
        problem(rate(&app, body).await, 400, "invalid_request").await;
    }
}

#[tokio::test]
async fn texts_go_with_the_document_that_they_quote() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    rated(&app, QUESTION).await;
    rated(&app, "When does the first ferry leave Nordby?").await;
    let texts = async || {
        let kept = all(&app).await.into_iter();
        kept.map(|answer| answer.answer.is_some() && answer.question.is_some()).collect::<Vec<_>>()
    };
    assert_eq!(texts().await, [true, true]);

    let fares = all(&app).await[0].citations[0].document;
    assert_eq!(app.delete(&format!("/api/v1/documents/{fares}")).send().await.unwrap().status(), 204);
    assert_eq!(texts().await, [false, true]);
    let blank = &all(&app).await[0];
    assert!(blank.comment.is_none() && blank.citations.is_empty() && blank.rating == Rating::Up);

    // Another content under the same name is another document.
    app.store(json!({"content": "The ferry is laid up.", "external_id": "times"})).await;
    assert_eq!(texts().await, [false, false]);

    assert_eq!(app.delete("/api/v1/collections/default").send().await.unwrap().status(), 204);
    assert!(all(&app).await.is_empty());
}

fn quoting(collection: Uuid, citations: Vec<QuotedPassage>) -> NewAnswer {
    NewAnswer {
        id: Uuid::now_v7(),
        tenant: TenantId::DEFAULT,
        key: None,
        collection,
        texts: Some(("question".into(), "answer".into())),
        method: "generated",
        backend: "m".into(),
        prompt_tokens: 1,
        completion_tokens: 1,
        cost_nano: 0,
        elapsed: std::time::Duration::ZERO,
        citations,
    }
}

#[tokio::test]
async fn a_collection_goes_with_answers_that_quote_several_of_its_documents() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    rated(&app, QUESTION).await;
    rated(&app, "When does the first ferry leave Nordby?").await;
    let quoted: Vec<QuotedPassage> =
        all(&app).await.into_iter().filter_map(|answer| answer.citations.into_iter().next()).collect();
    assert_ne!(quoted[0].document, quoted[1].document);
    let collection = app.rag.collection(TenantId::DEFAULT, "default").await.unwrap();
    app.rag.store().record_answer(&quoting(collection.id, quoted)).await.unwrap();
    assert_eq!(app.delete("/api/v1/collections/default").send().await.unwrap().status(), 204);
    assert!(all(&app).await.is_empty());
}

#[tokio::test]
async fn an_answer_whose_document_went_meanwhile_is_recorded_without_its_texts() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let collection = app.rag.collection(TenantId::DEFAULT, "default").await.unwrap();
    let gone = QuotedPassage { n: 1, document: Uuid::now_v7(), passage: Uuid::now_v7() };
    let answer = quoting(collection.id, vec![gone]);
    app.rag.store().record_answer(&answer).await.unwrap();
    app.rag.rate(Caller::DEFAULT, answer.id, Rating::Up, None).await.unwrap();
    let kept = all(&app).await;
    assert_eq!((kept.len(), &kept[0].question, &kept[0].answer), (1, &None, &None));
}

#[tokio::test]
async fn without_recording_only_numbers_are_kept() {
    let app = TestApp::with(|setup| setup.catalog.ask.record = false).await;
    app.store_ferry().await;
    rated(&app, QUESTION).await;
    let kept = all(&app).await;
    assert_eq!((kept.len(), &kept[0].question, &kept[0].answer), (1, &None, &None));
    assert_eq!(kept[0].rating, Rating::Up);
}

#[tokio::test]
async fn old_answers_are_removed() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    rated(&app, QUESTION).await;
    rated(&app, QUESTION).await;
    let oldest = all(&app).await[0].id;
    let aged = format!("UPDATE answers SET created_at = now() - interval '31 days' WHERE id = '{oldest}'");
    execute(&app.admin_url, &aged).await;
    assert_eq!(app.rag.store().sweep_answers(32, 100).await.unwrap(), 0);
    assert_eq!(app.rag.store().sweep_answers(30, 100).await.unwrap(), 1);
    assert!(all(&app).await.iter().all(|answer| answer.id != oldest));
}

#[tokio::test]
async fn feedback_is_exported_a_line_an_answer() {
    let app = TestApp::start().await;
    app.store_ferry().await;
    let answer = rated(&app, QUESTION).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let report = evaluate_feedback(&app.rag, Some(file.path()), &|_, _, _| {}).await.unwrap();
    assert_eq!((report.by_backend["extractive"], report.comments), ((1, 0), 1));
    let text = std::fs::read_to_string(file.path()).unwrap();
    let line: Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!((&line["answer_id"], &line["rating"]), (&answer["answer_id"], &json!("up")));
    assert_eq!((&line["question"], &line["comment"]), (&json!(QUESTION), &json!("Good!")));
    assert_eq!(line["citations"][0]["document_id"], answer["citations"][0]["document_id"]);
}
