//! Do two questions ask for the same?
//!
//! Vectors hardly tell 2019 from 2020, one name from another, "before" from "after" or a
//! question from its denial. So what decides a question must be equal in both, as far as
//! words tell; the rest may be said in other words. Two that ask for the same may well be
//! taken for different ones: that costs an answer's time, the other way round is wrong.

use std::collections::BTreeSet;

use unicode_segmentation::UnicodeSegmentation;

use super::grounding::{Facts, plain_number, stem};

/// Whether two questions ask for the same of the same.
///
/// Equal must be: numbers and names and their order, "not", what is asked for (a place, a time …), words of
/// time, place and degree ("before", "from", "over"), and words that contrast ("first"). Of the other content
/// words at least half must be shared; the order of all counts where things are compared ("than"). A word of a
/// script without capitals may be a name.
pub fn ask_the_same(a: &str, b: &str) -> bool {
    let (said_a, said_b) = (Facts::of(a), Facts::of(b));
    let caseless = |word: &str| word.contains(char::is_alphabetic) && !word.contains(char::is_lowercase);
    let named = |word: &str| said_a.names.contains(word) || said_b.names.contains(word) || caseless(word);
    let contrasts = |word: &str| CONTRASTS.iter().any(|contrast| stem(contrast) == word);
    let decides = |word: &String| named(word) || contrasts(word);
    let shared = said_a.words.intersection(&said_b.words).count();
    let (turns, other_turns) = (turns(a), turns(b));
    let compared = |word: &String| {
        turns.contains("than") && (said_a.words.contains(word) || said_b.words.contains(word))
    };
    let in_order = |text: &str| {
        let words = text.unicode_words().map(|word| stem(&word.to_lowercase()));
        words.filter(|word| compared(word) || named(word)).collect::<Vec<_>>()
    };
    numbers(a) == numbers(b)
        && said_a.negated == said_b.negated
        && turns == other_turns
        && !said_a.words.symmetric_difference(&said_b.words).any(decides)
        && 2 * shared >= said_a.words.len().max(said_b.words.len())
        && in_order(a) == in_order(b)
}

/// The numbers as they come.
fn numbers(text: &str) -> Vec<String> {
    let words = text.unicode_words().filter(|word| word.contains(|c: char| c.is_numeric()));
    words.map(|word| plain_number(&word.to_lowercase())).collect()
}

/// The meanings of those of [`TURNS`] that a text holds.
fn turns(text: &str) -> BTreeSet<&'static str> {
    let words: BTreeSet<String> = text.unicode_words().map(str::to_lowercase).collect();
    TURNS.iter().filter(|turn| turn.iter().any(|word| words.contains(*word))).map(|turn| turn[0]).collect()
}

/// Small words that turn a question into another one, those of one meaning together; some of them in English,
/// German, French and Spanish.
const TURNS: &[&[&str]] = &[
    &["who", "whom", "whose", "wer", "wen", "wem", "wessen", "qui", "quién", "quiénes"],
    &["where", "wo", "wohin", "woher", "où", "dónde", "adónde"],
    &["when", "wann", "quand", "cuándo"],
    &["why", "warum", "weshalb", "wieso", "pourquoi"],
    &["how", "wie", "comment", "cómo"],
    &["many", "much", "viel", "viele", "combien", "cuánto", "cuánta", "cuántos", "cuántas"],
    &["far", "weit", "loin", "lejos"],
    &["often", "oft", "souvent"],
    &["before", "vor", "bevor", "avant", "antes"],
    &["after", "nach", "nachdem", "après", "después"],
    &["since", "seit", "depuis"],
    &["until", "till", "bis", "jusqu", "jusque", "hasta"],
    &["during", "while", "während", "pendant", "durante", "mientras"],
    &["from", "von", "vom", "aus", "depuis", "desde"],
    &["into", "onto"],
    &["between", "zwischen", "entre"],
    &["over", "above", "über", "oberhalb", "dessus", "sobre", "encima"],
    &["under", "below", "beneath", "unter", "unterhalb", "sous", "dessous", "bajo", "debajo"],
    &["up"],
    &["down"],
    &["with", "mit", "avec", "con"],
    &["only", "nur", "seulement", "solo", "sólo"],
    &["all", "every", "each", "alle", "jede", "jeder", "jedes", "tous", "toutes", "todos", "todas"],
    &["more", "mehr", "plus", "más"],
    &["most", "meisten"],
    &["other", "another", "else", "andere", "anderen", "autre", "autres", "otro", "otra", "otros", "otras"],
    &["or", "oder", "ou"],
    &["than", "als"],
    &["if", "unless", "wenn", "falls", "si"],
    &["because", "weil", "parce", "porque"],
    &["must", "muss", "müssen", "doit", "dois", "debe", "debo"],
    &["should", "soll", "sollte", "sollen"],
    &["was", "were", "did", "had", "war", "waren", "hatte", "hatten", "était", "étaient", "fue", "fueron"],
    &["will", "wird", "werden"],
    &["he", "him", "his"],
    &["she", "her", "hers"],
];

/// Words of content that turn a question into another one.
const CONTRASTS: &[&str] = &[
    "first",
    "last",
    "next",
    "previous",
    "early",
    "earliest",
    "late",
    "latest",
    "old",
    "oldest",
    "new",
    "newest",
    "minimum",
    "maximum",
    "min",
    "max",
    "least",
    "less",
    "few",
    "fewer",
    "cheap",
    "cheapest",
    "expensive",
    "high",
    "higher",
    "highest",
    "low",
    "lower",
    "lowest",
    "long",
    "longest",
    "short",
    "shortest",
    "big",
    "biggest",
    "small",
    "smallest",
    "best",
    "worst",
    "arrive",
    "depart",
    "leave",
    "open",
    "close",
    "begin",
    "start",
    "end",
    "stop",
    "buy",
    "sell",
    "import",
    "export",
    "left",
    "right",
    "north",
    "south",
    "east",
    "west",
    "inner",
    "outer",
    "inside",
    "outside",
    "morning",
    "evening",
    "night",
    "noon",
    "today",
    "tomorrow",
    "yesterday",
    "adult",
    "child",
    "children",
    "man",
    "men",
    "woman",
    "women",
    "dog",
    "cat",
    "single",
    "double",
    "return",
    "win",
    "lose",
    "rise",
    "fall",
    "increase",
    "decrease",
    "allow",
    "forbid",
    "forbidden",
    "cause",
    "effect",
    "parent",
    "enable",
    "disable",
    "off",
    "yes",
    "internal",
    "external",
    "public",
    "private",
    "husband",
    "wife",
    "mother",
    "father",
];

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &str = "When did the first ferry leave Nordby in 2019?";

    #[test]
    fn the_same_may_be_asked_in_other_words() {
        for (a, b) in [
            (ASKED, "In 2019, when did the first ferry leave Nordby?"),
            ("What does a bicycle cost?", "What does it cost for a bicycle?"),
            (
                "How long is the trip from Nordby to Hestwick?",
                "From Nordby to Hestwick, how long is the trip?",
            ),
            ("Where are dogs allowed?", "Where is a dog allowed?"),
            ("Is a kayak cheaper than a bicycle?", "Is the kayak cheaper than the bicycle?"),
        ] {
            assert!(ask_the_same(a, b) && ask_the_same(b, a), "{a} / {b}");
        }
    }

    #[test]
    fn questions_that_differ_in_what_matters_are_two() {
        for (a, b) in [
            (ASKED, "When did the first ferry leave Nordby in 2020?"),
            (ASKED, "When did the last ferry leave Nordby in 2019?"),
            (ASKED, "When did the first ferry leave Oster in 2019?"),
            (ASKED, "When did the first ferry not leave Nordby in 2019?"),
            (ASKED, "Where did the first ferry leave Nordby in 2019?"),
            (ASKED, "When will the first ferry leave Nordby in 2019?"),
            ("渡轮几点离开北港？", "渡轮几点离开南港？"),
            ("从北港到南港多少钱？", "从南港到北港多少钱？"),
            ("Is the office open before noon?", "Is the office open after noon?"),
            ("Where can tickets be bought?", "When can tickets be bought?"),
            ("How many dogs are allowed?", "Where are dogs allowed?"),
            ("How far is the harbour?", "How often is the harbour?"),
            ("What is the fare from Nordby to Hestwick?", "What is the fare from Hestwick to Nordby?"),
            ("What is the fare from Nordby?", "What is the fare to Nordby?"),
            ("Did Anna pay Ben?", "Did Ben pay Anna?"),
            ("Did fares rise from 2019 to 2020?", "Did fares rise from 2020 to 2019?"),
            ("What do children under six pay?", "What do children over six pay?"),
            ("Is a kayak cheaper than a bicycle?", "Is a bicycle cheaper than a kayak?"),
            ("Must I book a cabin?", "May I book a cabin?"),
            ("Was the fare raised?", "Is the fare raised?"),
            ("Fährt die Fähre vor acht Uhr?", "Fährt die Fähre nach acht Uhr?"),
        ] {
            assert!(!ask_the_same(a, b) && !ask_the_same(b, a), "{a} / {b}");
        }
    }
}
