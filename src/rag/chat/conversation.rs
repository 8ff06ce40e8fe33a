//! What a conversation consists of.

use crate::{
    models::{Message, Speaker},
    rag::{RagError, injection::is_visible, search::check_query},
};

/// Longest style that is passed on, in characters: more would take the passages' place.
const MAX_STYLE: usize = 2_000;

/// A conversation taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Conversation {
    /// What the system says, joined.
    pub style: Option<String>,
    /// Turns before the question, those without words left out.
    pub history: Vec<Turn>,
    pub question: String,
}

/// Something said by the user or the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub by_user: bool,
    pub text: String,
}

impl Conversation {
    /// Fails with [`RagError::Invalid`] where there is no question at the end.
    pub fn of(messages: Vec<Message>) -> Result<Self, RagError> {
        let (mut style, mut history) = (Vec::new(), Vec::new());
        let last = messages.last().map(|message| message.speaker);
        if last != Some(Speaker::User) {
            let problem = match last {
                None => "is empty; give at least one message of the user",
                Some(_) => "the last message must be the user's question",
            };
            return Err(RagError::Invalid(format!("messages: {problem}")));
        }
        for Message { speaker, text } in messages {
            match speaker {
                Speaker::System => style.push(text.trim().to_owned()),
                Speaker::User => history.push(Turn { by_user: true, text }),
                Speaker::Assistant => history.push(Turn { by_user: false, text }),
            }
        }
        let question = history.pop().map(|turn| turn.text.trim().to_owned()).unwrap_or_default();
        if !says_something(&question) {
            return Err(RagError::Invalid("messages: the last message holds no text".into()));
        }
        check_query("messages", &question)?;
        history.retain(|turn| says_something(&turn.text));
        style.retain(|text| says_something(text));
        Ok(Self { style: (!style.is_empty()).then(|| style.join("\n\n")), history, question })
    }
}

/// The style that is passed on, and a note where it is none.
pub(super) fn fitting(style: Option<String>) -> (Option<String>, Option<String>) {
    match style.as_ref().map(|style| style.chars().count()) {
        Some(length) if length > MAX_STYLE => {
            let note = format!(
                "the system messages, {length} characters, were left out: at most {MAX_STYLE} are passed on"
            );
            (None, Some(note))
        }
        _ => (style, None),
    }
}

/// Whether anything can be seen of a text.
fn says_something(text: &str) -> bool {
    text.contains(is_visible)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(speaker: Speaker, text: &str) -> Message {
        Message { speaker, text: text.to_owned() }
    }

    #[test]
    fn the_last_question_is_told_from_what_was_said_before() {
        use Speaker::{Assistant, System, User};
        let conversation = Conversation::of(vec![
            said(System, "Be brief."),
            said(User, "What does a bicycle cost?"),
            said(Assistant, "\u{1}\n"),
            said(System, "Be kind."),
            said(User, " And a dog? "),
        ])
        .unwrap();
        assert_eq!(conversation.style.as_deref(), Some("Be brief.\n\nBe kind."));
        assert_eq!(conversation.question, "And a dog?");
        assert_eq!(conversation.history, [Turn { by_user: true, text: "What does a bicycle cost?".into() }]);
    }

    #[test]
    fn a_conversation_without_a_question_at_its_end_is_refused() {
        use Speaker::{Assistant, System, User};
        for (messages, reason) in [
            (vec![], "is empty"),
            (vec![said(System, "Be brief.")], "must be the user's"),
            (vec![said(User, "Hello"), said(Assistant, "Hello")], "must be the user's"),
            (vec![said(User, "")], "no text"),
            (vec![said(User, "\u{7}\u{1b}\t\u{200b}")], "no text"),
            (vec![said(User, "a\u{0}")], "NUL"),
            (vec![said(User, &"x".repeat(200_000))], "200000 bytes"),
        ] {
            let error = Conversation::of(messages).unwrap_err().to_string();
            assert!(error.starts_with("messages: ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_style_that_would_crowd_out_the_passages_is_left_out_and_noted() {
        assert_eq!(fitting(Some("Brief.".into())), (Some("Brief.".into()), None));
        let (style, note) = fitting(Some("x".repeat(2_001)));
        assert!(style.is_none() && note.unwrap().contains("2001 characters"));
    }
}
