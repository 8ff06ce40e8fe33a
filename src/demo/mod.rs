//! The documents that `serve --demo` starts with: the handbook of an invented
//! ferry company, and two pages about ragway itself.

/// A document of the demo corpus, in Markdown.
#[derive(Debug, Clone, Copy)]
pub struct DemoDocument {
    /// File name, which is also its source.
    pub file: &'static str,
    pub text: &'static str,
}

/// A question to try, and what the documents say to it.
#[derive(Debug, Clone, Copy)]
pub struct DemoQuestion {
    pub question: &'static str,
    /// Words that a right answer holds and the file that it comes from;
    /// absent where the documents do not say.
    pub answer: Option<(&'static str, &'static str)>,
}

macro_rules! documents {
    ($($file:literal),+ $(,)?) => {
        &[$(DemoDocument { file: $file, text: include_str!($file) }),+]
    };
}

/// Every document, in reading order.
pub const DOCUMENTS: &[DemoDocument] = documents![
    "welcome.md",
    "timetable.md",
    "fares.md",
    "booking-and-refunds.md",
    "weather.md",
    "bicycles-and-pets.md",
    "accessibility.md",
    "safety.md",
    "lost-property.md",
    "ships.md",
    "history.md",
    "staff.md",
    "ragway.md",
    "ragway-language-models.md",
];

/// Questions to try; the last three are not answered by the documents.
pub const QUESTIONS: &[DemoQuestion] = &[
    answered("How much is a day rover?", "32 crowns", "fares.md"),
    answered("How long does the crossing to Hestwick take?", "55 minutes", "welcome.md"),
    answered("Who bought the first boat of the ferry company?", "Agnes Calloway", "history.md"),
    answered("How many cars fit on the Grey Heron?", "42", "booking-and-refunds.md"),
    answered("At what wind speed does the Marigold Finch stop sailing?", "40 km/h", "weather.md"),
    answered("How long do you keep lost keys?", "180 days", "lost-property.md"),
    answered(
        "Can I take my dog to Morvane in June?",
        "when the terns breed on Morvane",
        "bicycles-and-pets.md",
    ),
    answered("Does a companion of a disabled passenger have to pay?", "goes free", "accessibility.md"),
    answered("What happens to a citation number that belongs to no passage?", "is removed", "ragway.md"),
    unanswered("Which fish are in the Galley's fish soup?"),
    unanswered("How deep is Tarn Sound at its deepest point?"),
    unanswered("Is there a swimming pool on Hestwick?"),
];

const fn answered(question: &'static str, words: &'static str, file: &'static str) -> DemoQuestion {
    DemoQuestion { question, answer: Some((words, file)) }
}

const fn unanswered(question: &'static str) -> DemoQuestion {
    DemoQuestion { question, answer: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_listed_and_has_a_title() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/demo");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut files: Vec<_> = files.filter_map(|name| name.into_string().ok()).collect();
        files.retain(|name| name.ends_with(".md"));
        files.sort();
        let mut listed: Vec<_> = DOCUMENTS.iter().map(|document| document.file).collect();
        listed.sort();
        assert_eq!(listed, files);
        assert!(DOCUMENTS.iter().all(|document| document.text.starts_with("# ")));
    }

    #[test]
    fn answers_are_in_the_documents() {
        for DemoQuestion { question, answer } in QUESTIONS {
            let Some((words, file)) = answer else { continue };
            let document = DOCUMENTS.iter().find(|document| document.file == *file).unwrap();
            assert!(document.text.contains(words), "{question}");
        }
        assert_eq!(QUESTIONS.iter().filter(|question| question.answer.is_none()).count(), 3);
    }
}
