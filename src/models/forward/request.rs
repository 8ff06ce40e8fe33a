//! What ragway reads of a request that it passes on, and what it writes into it.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

use super::{estimate_tokens, text_tokens, with_member};

/// A chat completion request as a client wrote it: its bytes, and what is read of them.
#[derive(Debug)]
pub struct ForwardRequest {
    body: Bytes,
    model: Option<String>,
    /// Where the model's name stands, with its quotes; absent where it is written with escapes.
    model_place: Option<Range<usize>>,
    streamed: bool,
    stream_options: Option<Value>,
    messages: Value,
    tools: Value,
}

/// The members that are read; a second one of a name is an error, for a server could mean the other.
#[derive(Deserialize)]
struct Read<'a> {
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(default)]
    stream: Value,
    #[serde(default, deserialize_with = "given")]
    stream_options: Option<Value>,
    #[serde(default)]
    messages: Value,
    #[serde(default)]
    tools: Value,
}

/// A text of its own, so that an optional one is borrowed too.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Tells null from nothing.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl ForwardRequest {
    /// Reads a body; fails where it is no JSON object, or its model's name no text.
    pub fn read(body: Bytes) -> Result<Self, serde_json::Error> {
        // An array would be taken for the members in their order.
        if !body.trim_ascii_start().starts_with(b"{") {
            serde_json::from_slice::<Value>(&body)?;
            return Err(serde_json::Error::custom("expected an object"));
        }
        let Read { model, stream, stream_options, messages, tools } = serde_json::from_slice(&body)?;
        let model = model.map(|Text(name)| name);
        let model_place = match &model {
            Some(Cow::Borrowed(name)) => {
                let start = name.as_ptr().addr() - body.as_ptr().addr();
                Some(start - 1..start + name.len() + 1)
            }
            Some(Cow::Owned(_)) | None => None,
        };
        Ok(Self {
            model: model.map(Cow::into_owned),
            model_place,
            streamed: stream.as_bool().unwrap_or_default(),
            stream_options,
            messages,
            tools,
            body,
        })
    }

    /// The body as the client wrote it.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The model that the client names, if it does.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the answer is to come in events.
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Whether the client wants to be told the tokens of a stream.
    pub fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options["include_usage"] == true)
    }

    /// What the user said last, for the rules of routing.
    pub fn question(&self) -> &str {
        let messages = self.messages.as_array().map(Vec::as_slice).unwrap_or_default();
        let last = messages.iter().rev().find(|message| message["role"] == "user");
        let text = match last.map(|message| &message["content"]) {
            Some(Value::Array(parts)) => parts.iter().find_map(|part| part["text"].as_str()),
            Some(content) => content.as_str(),
            None => None,
        };
        text.unwrap_or_default()
    }

    /// About how many tokens there are to read; pictures are not counted.
    pub fn estimated_tokens(&self) -> usize {
        let tools = if self.tools.is_null() { 0 } else { estimate_tokens(&self.tools.to_string()) };
        text_tokens(&self.messages) + tools
    }

    /// The body with another model's name. A stream is also to end with its usage, for that is charged.
    ///
    /// Nothing else is written anew: the order of members and the form of numbers stay.
    pub fn body_for(&self, model: &str) -> Vec<u8> {
        self.spliced(model).unwrap_or_else(|| self.rewritten(model))
    }

    fn spliced(&self, model: &str) -> Option<Vec<u8>> {
        let place = self.model_place.clone()?;
        let (before, after) = (&self.body[..place.start], &self.body[place.end..]);
        let named = [before, Value::from(model).to_string().as_bytes(), after].concat();
        match &self.stream_options {
            None if self.streamed => with_member(&named, "stream_options", &usage_included(Map::new())),
            Some(_) if self.streamed && !self.wants_usage() => None,
            _ => Some(named),
        }
    }

    fn rewritten(&self, model: &str) -> Vec<u8> {
        let mut body: Map<String, Value> = serde_json::from_slice(&self.body).unwrap_or_default();
        body.insert("model".to_owned(), model.into());
        if self.streamed {
            let options = match body.remove("stream_options") {
                Some(Value::Object(options)) => options,
                _ => Map::new(),
            };
            body.insert("stream_options".to_owned(), usage_included(options));
        }
        Value::Object(body).to_string().into_bytes()
    }
}

fn usage_included(mut options: Map<String, Value>) -> Value {
    options.insert("include_usage".to_owned(), true.into());
    Value::Object(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> ForwardRequest {
        ForwardRequest::read(Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn sent(body: &str) -> String {
        String::from_utf8(read(body).body_for("in \"quotes\"")).unwrap()
    }

    #[test]
    fn only_the_models_name_is_written_anew() {
        let body = " { \"z\" : 1.50e0, \"model\" :\"m\", \"n\":123456789012345678901234567890, \"a\":\"\\u00e9\" } \n";
        assert_eq!(sent(body), body.replace("\"m\"", "\"in \\\"quotes\\\"\""));
    }

    #[test]
    fn a_stream_is_asked_for_its_usage() {
        let model = "\"in \\\"quotes\\\"\"";
        for (body, wanted) in [
            (
                r#"{"stream": true, "model": "m"}"#,
                format!(r#"{{"stream": true, "model": {model},"stream_options":{{"include_usage":true}}}}"#),
            ),
            (
                r#"{"stream":true,"model":"m","stream_options": {"include_usage": true}}"#,
                format!(r#"{{"stream":true,"model":{model},"stream_options": {{"include_usage": true}}}}"#),
            ),
            (
                r#"{"stream":true,"stream_options":{"include_usage":false,"x":1},"model":"m"}"#,
                format!(
                    r#"{{"model":{model},"stream":true,"stream_options":{{"include_usage":true,"x":1}}}}"#
                ),
            ),
            (
                r#"{"stream":true,"stream_options":null,"model":"m"}"#,
                format!(r#"{{"model":{model},"stream":true,"stream_options":{{"include_usage":true}}}}"#),
            ),
            (r#"{"model":"m","stream":false}"#, format!(r#"{{"model":{model},"stream":false}}"#)),
            // Escapes: the name's place is not known.
            (r#"{"n":1,"model":"\u006d"}"#, format!(r#"{{"model":{model},"n":1}}"#)),
        ] {
            assert_eq!(sent(body), wanted);
        }
        assert_eq!(read(r#"{"model":"\u006d"}"#).model(), Some("m"));
    }

    #[test]
    fn what_is_no_request_is_told() {
        for (body, told) in [
            ("", "EOF"),
            ("[\"m\"]", "expected an object"),
            ("5", "expected an object"),
            ("{\"model\": 5}", "expected a string"),
            ("{\"model\": \"a\", \"model\": \"b\"}", "duplicate field `model`"),
            ("{\"model\": \"a\"} x", "trailing"),
        ] {
            let error = ForwardRequest::read(Bytes::copy_from_slice(body.as_bytes())).unwrap_err();
            assert!(error.to_string().contains(told), "{body}: {error}");
        }
        assert_eq!(read("{\"model\": null}").model(), None);
    }

    #[test]
    fn texts_are_counted_and_pictures_are_not() {
        let picture = "A".repeat(9_000);
        let body = serde_json::json!({ "model": "m", "messages": [
            { "role": "system", "content": "abc abc" },
            { "role": "user", "content": [
                { "type": "text", "text": "abcdef" },
                { "type": "image_url", "image_url": { "url": picture } },
            ] },
        ]});
        let request = read(&body.to_string());
        assert_eq!((request.estimated_tokens(), request.question()), (4, "abcdef"));
        let tools = serde_json::json!({ "model": "m", "tools": [{ "name": "abc" }] });
        assert!(read(&tools.to_string()).estimated_tokens() > 3);
    }
}
