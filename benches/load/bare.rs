//! What actix-web does without ragway: `bare PORT BYTES`.
//!
//! Serves POST `/bare` with a body of so many bytes, and a language model at `/v1/chat/completions` that
//! answers at once, always the same. Spoken to by `run.py`.
#![expect(clippy::print_stdout, reason = "its caller waits for a line")]

use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::{Context, Result};
use serde_json::{Value, json};

const SENTENCE: &str = "A bicycle costs euros each way [1].";

#[actix_web::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().context("which port?")?.parse()?;
    let bytes: usize = arguments.next().context("how many bytes?")?.parse()?;
    let body = web::Bytes::from("0".repeat(bytes));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(body.clone()))
            .route("/bare", web::post().to(bare))
            .route("/v1/chat/completions", web::post().to(chat))
    });
    let server = server.workers(2).bind(("127.0.0.1", port))?;
    println!("ready");
    Ok(server.run().await?)
}

async fn bare(body: web::Data<web::Bytes>, _: web::Bytes) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(body.get_ref().clone())
}

async fn chat(request: web::Json<Value>) -> HttpResponse {
    let common = |choice: Value| json!({"id": "1", "created": 1, "model": "mock", "choices": [choice]});
    let usage = json!({"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100});
    let message = json!({"role": "assistant", "content": SENTENCE});
    if request["stream"] != true {
        let mut whole = common(json!({"index": 0, "message": message, "finish_reason": "stop"}));
        whole["object"] = json!("chat.completion");
        whole["usage"] = usage;
        return HttpResponse::Ok().json(whole);
    }
    let mut words = common(json!({"index": 0, "delta": message}));
    let mut end = common(json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
    for event in [&mut words, &mut end] {
        event["object"] = json!("chat.completion.chunk");
    }
    end["usage"] = usage;
    let events = format!("data: {words}\n\ndata: {end}\n\ndata: [DONE]\n\n");
    HttpResponse::Ok().content_type("text/event-stream").body(events)
}
