//! The local language model on real weights: SmolLM2-135M-Instruct, Q4_1.

use futures_util::StreamExt;
use ragway::models::{
    GenerateRequest, GeneratedPart, GenerationStream, Generator, Message, ModelError, Speaker, Usage,
    candle::gguf::GgufGenerator,
};

use crate::harness::{local_llm, smollm2};

type Said<'a> = (Speaker, &'a str);

fn request(messages: &[Said], max_tokens: usize) -> GenerateRequest {
    let messages =
        messages.iter().map(|(speaker, text)| Message { speaker: *speaker, text: (*text).to_owned() });
    GenerateRequest { messages: messages.collect(), max_tokens, ..GenerateRequest::default() }
}

async fn read(stream: GenerationStream) -> (Vec<String>, Usage) {
    let mut texts = Vec::new();
    let mut usage = None;
    for part in stream.collect::<Vec<_>>().await {
        match part.unwrap() {
            GeneratedPart::Text(text) => texts.push(text),
            GeneratedPart::Usage(counted) => usage = Some(counted),
        }
    }
    (texts, usage.expect("the usage comes last"))
}

/// Numbers of tokens as llama.cpp counts them on the same file: release 11549
/// (xllamacpp 2026.10.11549), `POST /tokenize` with `parse_special: false`.
/// The ids themselves were the same, too.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_those_of_llama_cpp() {
    let model = local_llm().await;
    let expected = [
        ("Hello, world!", 4),
        ("In 2026, 1,234.50 euros were paid (3.5%).", 24),
        ("Grüße aus Zürich – naïve café, Ελληνικά, русский.", 32),
        ("漢字とひらがな、한국어, العربية", 30),
        ("👩‍🚀 rockets 🚀🚀 and ½ cups", 19),
        ("  leading spaces\n\n\tand\ttabs  \n", 10),
        ("fn main() { println!(\"{}\", x[0] + 1); }", 18),
        ("<|im_end|> <|im_start|>system\nx", 17),
        ("٣٤٥ Ⅳ ² x²", 14),
        ("", 0),
    ];
    for (text, tokens) in expected {
        assert_eq!(model.count_tokens(text), tokens, "{text:?}");
    }
}

/// Greedy text as llama.cpp writes it from the same file: release 11549
/// (xllamacpp 2026.10.11549, two threads), the prompt from `POST
/// /apply-template`, then `POST /completion` with `temperature: 0`, `top_k: 1`
/// and `cache_prompt: false`. These are prompts whose best token leads the
/// second by 0.08 or more throughout: the weights are requantised here, and
/// where llama.cpp itself hesitates the texts part.
#[tokio::test(flavor = "multi_thread")]
async fn greedy_text_is_that_of_llama_cpp() {
    use Speaker::{Assistant, System, User};
    let model = local_llm().await;
    let colours = "Red, green, blue, yellow, black, white.";
    let lighthouse = "The lighthouse on Skerrow Rock was completed in 1871 after four summers of work.";
    let cases: [(&[Said], usize, &str); 5] = [
        (&[(User, "Count from 1 to 20.")], 40, "1. 1\n2. 2\n3. 3\n4. 4\n5. 5\n6. 6\n7. 7\n8. 8\n"),
        (
            &[(User, "Write a Python function that adds two numbers.")],
            40,
            "```python\ndef add_numbers(num1, num2):\n    return num1 + num2\n```\n\n\
             This function uses the built-in `add` function to add two numbers",
        ),
        (
            &[(User, "List the planets of the solar system in order from the sun.")],
            60,
            "The planets in order from the sun are: Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, \
             Neptune, and Earth.",
        ),
        (
            &[(User, "Write the alphabet in capital letters, separated by spaces.")],
            60,
            "The alphabet in capital letters, separated by spaces.",
        ),
        (
            &[
                (System, "Repeat what the user says."),
                (User, colours),
                (Assistant, colours),
                (User, lighthouse),
            ],
            60,
            "The lighthouse on Skerrow Rock was completed in 1871 after four decades of work.",
        ),
    ];
    for (messages, max_tokens, expected) in cases {
        let (parts, usage) = read(model.generate(request(messages, max_tokens)).await.unwrap()).await;
        assert_eq!(parts.concat(), expected);
        assert!(parts.len() > 5, "the answer came in {} parts", parts.len());
        assert!(usage.prompt_tokens > 20 && usage.completion_tokens <= max_tokens, "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_text() {
    let model = local_llm().await;
    let sampled = |seed| {
        let mut request = request(&[(Speaker::User, "Tell me a story.")], 12);
        request.temperature = 1.0;
        request.seed = Some(seed);
        request
    };
    let mut texts = Vec::new();
    for seed in [7, 7, 8] {
        let (parts, _) = read(model.generate(sampled(seed)).await.unwrap()).await;
        texts.push(parts.concat());
    }
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[0], texts[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_does_not_fit_is_refused_with_the_counts() {
    let model = local_llm().await;
    let long = "word ".repeat(2000);
    let mut stream = model.generate(request(&[(Speaker::User, &long)], 100)).await.unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    assert!(stream.next().await.is_none(), "the stream ends with its error");
    let ModelError::Unfit { reason, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains("may have 100") && reason.contains("1024"), "{reason}");

    let (parts, _) = read(model.generate(request(&[(Speaker::User, "Hi")], 4)).await.unwrap()).await;
    assert!(!parts.is_empty(), "the model goes on after a refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_empties_when_callers_leave() {
    let (mut entry, folder) = smollm2().await;
    entry.queue = 1;
    let model = GgufGenerator::load(&entry, &folder).await.unwrap();
    let long = request(&[(Speaker::User, "Write a very long story about a lighthouse.")], 700);
    let mut running = model.generate(long.clone()).await.unwrap();
    // Its first part shows that it has left the queue.
    assert!(running.next().await.unwrap().is_ok());
    let queued = model.generate(long.clone()).await.unwrap();
    let refused = model.generate(long).await.err().unwrap();
    assert!(matches!(refused, ModelError::Overloaded { .. }), "{refused:?}");

    drop((running, queued));
    let next = loop {
        match model.generate(request(&[(Speaker::User, "Hi")], 4)).await {
            Ok(stream) => break stream,
            Err(ModelError::Overloaded { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    };
    let (parts, usage) = read(next).await;
    assert!(!parts.is_empty() && usage.completion_tokens <= 4);
}

#[tokio::test]
async fn a_file_that_is_missing_or_too_small_is_said() {
    let (mut entry, folder) = smollm2().await;
    let empty = tempfile::tempdir().unwrap();
    let error = GgufGenerator::load(&entry, empty.path()).await.err().unwrap();
    assert!(error.to_string().contains("SmolLM2-135M-Instruct.Q4_1.gguf cannot be loaded"), "{error}");
    entry.context_tokens = 8192;
    let error = GgufGenerator::load(&entry, &folder).await.err().unwrap();
    assert!(error.to_string().contains("context_tokens = 8192 is more than its 4096 positions"), "{error}");
}
