//! A question that takes something from the turns before it, made whole.
//!
//! Whether it does is told by its words: pronouns, a beginning such as "and" or
//! "what about", or hardly any words at all. Then a backend rewrites it. What the
//! backend writes is used when it asks with words of the conversation only; else,
//! and without a backend, the question is joined with those before it.

use std::{collections::HashSet, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;
use unicode_segmentation::UnicodeSegmentation;

use super::{Made, Standalone, conversation::Turn};
use crate::{
    models::{GenerateRequest, GeneratedPart, Generator, ModelError, router::Selector},
    rag::{
        Caller, Rag,
        search::check_query,
        usage::{Charge, Meter, Operation},
    },
};

/// Longest wait for a backend's version.
const DEADLINE: Duration = Duration::from_secs(5);
/// Tokens of a rewritten question at most.
const MAX_TOKENS: usize = 96;
/// Turns that a backend is shown, the latest.
const TURNS: usize = 6;
/// Characters of a turn that it is shown; what a question refers to was said briefly.
const TURN_CHARACTERS: usize = 600;
/// A question of so few words leaves something out.
const FEW_WORDS: usize = 3;

/// Beginnings of questions that go on from an earlier one: English, German, French, Spanish, Chinese.
const BEGINNINGS: &[&str] = &[
    "and ",
    "but ",
    "or ",
    "so ",
    "then ",
    "also ",
    "what about",
    "how about",
    "what else",
    "what if",
    "und ",
    "aber ",
    "oder ",
    "dann ",
    "was ist mit",
    "wie ist es mit",
    "wie sieht es mit",
    "et ",
    "mais ",
    "ou ",
    "alors ",
    "qu'en est-il",
    "y ",
    "pero ",
    "entonces ",
    "qué tal",
    "那",
    "还有",
    "那么",
    "然后",
];

/// Words that stand for something said before.
const REFERENCES: &[&str] = &[
    "it", "its", "they", "them", "their", "theirs", "he", "him", "his", "she", "her", "hers", "this", "that",
    "these", "those", "one", "ones", "there", "same", "latter", "former", "es", "sie", "er", "ihn", "ihm",
    "ihr", "ihre", "ihren", "ihnen", "dies", "dieser", "diese", "dieses", "diesen", "dort", "dafür", "davon",
    "damit", "dazu", "deren", "dessen", "il", "elle", "ils", "elles", "cela", "celui", "celle", "leur", "él",
    "ella", "ellos", "ellas", "eso", "esto", "esta", "ese", "esa",
];

/// The same, in a script that does not part words.
const CHINESE_REFERENCES: &[&str] = &["它", "他", "她", "这", "那里", "那个", "那些"];

/// The question made whole by the backend that `selector` leads to. What fails on the way costs
/// quality, not the answer.
pub(super) async fn standalone(
    rag: &Rag,
    caller: Caller,
    selector: Selector<'_>,
    history: &[Turn],
    question: String,
) -> Standalone {
    let as_asked = Standalone { text: question, made: Made::AsAsked, usage: Charge::default() };
    if !history.iter().any(|turn| turn.by_user) || !is_follow_up(&as_asked.text) {
        return as_asked;
    }
    let question = as_asked.text.as_str();
    let mut meter = None;
    let written = timeout(DEADLINE, written(rag, caller, selector, history, question, &mut meter)).await;
    let usage = meter.map_or_else(Charge::default, Meter::close);
    match written {
        Ok(Ok((backend, text))) => match usable(&text, history, question) {
            Some(text) => return Standalone { text, made: Made::Rewritten(backend), usage },
            None => tracing::debug!(backend, "a rewritten question was not usable"),
        },
        Ok(Err(reason)) => tracing::debug!(reason, "no backend rewrote a question"),
        Err(_) => tracing::debug!("no backend rewrote a question in time"),
    }
    match joined(history, question) {
        Some(text) => Standalone { text, made: Made::Joined, usage },
        None => Standalone { usage, ..as_asked },
    }
}

/// Name of the backend, and what it wrote; `meter` counts it, also where it does not come to an end.
async fn written(
    rag: &Rag,
    caller: Caller,
    selector: Selector<'_>,
    history: &[Turn],
    question: &str,
    meter: &mut Option<Meter>,
) -> Result<(String, String), String> {
    let plan = |backend: &dyn Generator| request(rag, history, question, backend);
    let selector = Selector { question, ..selector };
    let routed = rag.answers.generate(&selector, plan).await.map_err(|error| error.to_string())?;
    let begun = Meter::begin(rag.ledger(), caller, Operation::Rewrite, &routed.backend, routed.plan);
    let meter = meter.insert(begun.beside());
    let (mut stream, mut text) = (routed.stream, String::new());
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| error.to_string())?;
        meter.count(&part);
        if let GeneratedPart::Text(more) = part {
            text.push_str(&more);
        }
    }
    Ok((routed.backend, text))
}

/// As much of the conversation, its end first, as fits the backend's context, and its tokens.
fn request(
    rag: &Rag,
    history: &[Turn],
    question: &str,
    backend: &dyn Generator,
) -> Result<(GenerateRequest, usize), ModelError> {
    let shown: Vec<(&str, String)> = history[history.len().saturating_sub(TURNS)..]
        .iter()
        .map(|turn| {
            let text: String = turn.text.chars().take(TURN_CHARACTERS).collect();
            (if turn.by_user { "User" } else { "Assistant" }, text)
        })
        .collect();
    let room = backend.context_tokens().saturating_sub(2 * MAX_TOKENS);
    for first in 0..shown.len() {
        let messages = rag.prompts.rewrite(&shown[first..], question).map_err(|error| {
            ModelError::Failed { model: backend.name().to_owned(), reason: error.to_string() }
        })?;
        let tokens = messages.iter().map(|message| backend.count_tokens(&message.text)).sum();
        if tokens <= room {
            let request = GenerateRequest { messages, max_tokens: MAX_TOKENS, ..GenerateRequest::default() };
            return Ok((request, tokens));
        }
    }
    let reason = "the question does not fit its context".to_owned();
    Err(ModelError::Unfit { model: backend.name().to_owned(), reason })
}

/// Whether a question takes something from the turns before it.
fn is_follow_up(question: &str) -> bool {
    let lower = question.to_lowercase().replace('’', "'");
    let words: Vec<&str> = lower.unicode_words().collect();
    let foreign = lower.chars().any(|c| ('\u{3400}'..='\u{9fff}').contains(&c));
    if BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning)) {
        return true;
    }
    if foreign {
        return lower.chars().count() <= 2 * FEW_WORDS
            || CHINESE_REFERENCES.iter().any(|word| lower.contains(word));
    }
    words.len() <= FEW_WORDS
        || words.iter().enumerate().any(|(at, word)| {
            REFERENCES.contains(word) && !(*word == "it" && stands_for_what_follows(&words[at..]))
        })
}

/// "it" in "does it cost to take a bicycle".
fn stands_for_what_follows(words: &[&str]) -> bool {
    words.iter().skip(1).take(4).any(|word| ["to", "that", "if", "whether"].contains(word))
}

/// What a backend wrote as one question, unless it says what nobody said.
fn usable(written: &str, history: &[Turn], question: &str) -> Option<String> {
    let line = written.lines().map(str::trim).find(|line| !line.is_empty())?;
    let quotes = ['"', '“', '”', '`', '*'];
    let line = line.trim_matches(quotes).trim();
    let line = line.split_once(": ").filter(|(label, _)| is_label(label)).map_or(line, |(_, rest)| rest);
    let line = line.trim().trim_matches(quotes);
    if check_query("question", line).is_err() || line.chars().count() > 4 * question.len() + 400 {
        return None;
    }
    let mut said: HashSet<String> = stems(question).collect();
    said.extend(history.iter().flat_map(|turn| stems(&turn.text).collect::<Vec<_>>()));
    let words: Vec<String> = stems(line).collect();
    let known = words.iter().filter(|word| said.contains(*word)).count();
    let asked: HashSet<String> = words.iter().cloned().collect();
    let kept = stems(question).filter(|word| asked.contains(word)).count();
    // A word or two may be new: "cost" becomes "price". One number that nobody said is one too many.
    let invented = words.iter().any(|word| word.chars().any(char::is_numeric) && !said.contains(word));
    let wanted = stems(question).filter(|word| !REFERENCES.contains(&word.as_str())).count();
    (!invented && 3 * known >= 2 * words.len() && 2 * kept >= wanted).then(|| line.to_owned())
}

/// "Standalone question" before a colon.
fn is_label(text: &str) -> bool {
    let lower = text.to_lowercase();
    lower.len() <= 30 && (lower.ends_with("question") || lower.ends_with("user"))
}

/// Beginnings of the words that carry meaning, so that "costs" is "cost".
fn stems(text: &str) -> impl Iterator<Item = String> {
    text.unicode_words()
        .map(str::to_lowercase)
        .filter(|word| word.chars().count() > 3 || word.chars().any(|c| c.is_numeric() || !c.is_ascii()))
        .map(|word| word.chars().take(5).collect())
}

/// The question behind those that it goes on from, back to one that stands alone.
fn joined(history: &[Turn], question: &str) -> Option<String> {
    let mut parts = vec![question.trim()];
    for turn in history.iter().rev().filter(|turn| turn.by_user).take(TURNS / 2) {
        parts.push(turn.text.trim());
        if !is_follow_up(&turn.text) {
            break;
        }
    }
    parts.reverse();
    let joined = parts.join(" ");
    (parts.len() > 1 && check_query("question", &joined).is_ok()).then_some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> Turn {
        Turn { by_user: true, text: text.to_owned() }
    }

    #[test]
    fn questions_that_go_on_from_another_are_told_by_their_words() {
        for question in [
            "And for children?",
            "How much does it cost?",
            "What about dogs on the car deck?",
            "Are they allowed in the saloon on Sundays?",
            "In winter?",
            "Und was kostet ein Fahrrad dort?",
            "那狗呢？",
            "它多少钱？",
            "Et pour les enfants de moins de six ans ?",
        ] {
            assert!(is_follow_up(question), "{question}");
        }
        for question in [
            "What does it cost to take a bicycle?",
            "When does the first ferry leave Nordby?",
            "How long does it take to cross the strait?",
            "Was kostet die Mitnahme eines Fahrrads?",
            "第一班渡轮什么时候从北比出发？",
        ] {
            assert!(!is_follow_up(question), "{question}");
        }
    }

    #[test]
    fn a_follow_up_is_joined_back_to_a_question_that_stands_alone() {
        let answer = Turn { by_user: false, text: "3 euros. [1]".into() };
        let history = [
            user("Are dogs welcome on board?"),
            user("What does a bicycle cost on the ferry?"),
            answer,
            user("And a tandem?"),
        ];
        assert_eq!(
            joined(&history, "And in winter?").unwrap(),
            "What does a bicycle cost on the ferry? And a tandem? And in winter?"
        );
        assert_eq!(joined(&[], "And in winter?"), None);
        assert_eq!(joined(&[user(&"long ".repeat(7000))], "And in winter?"), None);
    }

    #[test]
    fn a_rewritten_question_must_keep_to_what_was_said() {
        let history = [user("What does a bicycle cost on the ferry?")];
        let question = "And for children?";
        let good = "What does a bicycle cost on the ferry for children?";
        assert_eq!(usable(good, &history, question).unwrap(), good);
        assert_eq!(
            usable(&format!("Standalone question: \"{good}\"\nThanks!"), &history, question).unwrap(),
            good
        );
        for bad in [
            "",
            "\n",
            "A bicycle costs 3 euros on the ferry for children.",
            "Children love the museum and its wonderful dinosaurs.",
            "What does a bicycle cost on the ferry?",
        ] {
            assert_eq!(usable(bad, &history, question), None, "{bad}");
        }
    }
}
