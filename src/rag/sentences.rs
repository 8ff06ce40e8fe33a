//! Sentence boundaries, by rules that hold for many languages.
//!
//! A refinement of the sentence rules of Unicode Standard Annex 29 for
//! documents: abbreviations, initials, ordinals, list items and line ends.

use std::ops::Range;

/// Words before a full stop that do not end a sentence, in lower case.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "mx", "dr", "prof", "rev", "hon", "gen", "col", "capt", "cpt", "lt", "sgt", "cmdr",
    "adm", "gov", "sen", "rep", "pres", "st", "mt", "ft", "vs", "cf", "e.g", "i.e", "eg", "ie", "viz", "al",
    "resp", "approx", "ca", "fig", "figs", "eq", "eqs", "sec", "ch", "art", "vol", "ed", "eds", "pp", "op",
    "dept", "est", "tel", "ext", "ave", "blvd", "rd", "mme", "mlle", "sra", "srta", "sig", "hr", "fr", "nr",
    "bzw", "z.b", "d.h", "u.a", "o.ä", "ggf", "vgl", "evtl", "inkl", "bspw", "p.ex", "c.-à-d", "p.ej", "ej",
    "núm", "т.е", "т.д", "им", "гл",
];

/// Abbreviations that do not end a sentence before a number: `No. 5`, `Jan. 3`, `p. 7`.
const BEFORE_NUMBERS: &[&str] = &[
    "no", "nos", "p", "n", "§", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov",
    "dec", "art", "nº", "стр",
];

/// Abbreviations that often end a sentence; they do so before a word that begins one.
const MAY_END: &[&str] = &["etc", "inc", "ltd", "co", "corp", "jr", "sr", "bros", "usw"];

/// Words that begin sentences and are no part of a name.
const STARTERS: &[&str] = &[
    "The", "A", "An", "This", "That", "These", "Those", "It", "He", "She", "They", "We", "You", "I", "In",
    "On", "At", "By", "For", "From", "If", "When", "While", "After", "Before", "But", "And", "Or", "So",
    "However", "There", "Its", "His", "Her", "Their", "Our", "No", "Not", "As", "To", "With", "Der", "Die",
    "Das", "Le", "La", "Les", "El", "Il",
];

const MONTHS: &[&str] = &[
    "jan", "feb", "mär", "mar", "apr", "mai", "may", "jun", "jul", "aug", "sep", "okt", "oct", "nov", "dez",
    "dec",
];

/// Letters that a line has at least when its end may be a matter of width only.
const WRAPPED_LINE: usize = 45;

/// Bytes after a full stop in which the next word is looked for.
const NEXT_WORD: usize = 64;

/// Byte ranges of the sentences of `text`, in order.
///
/// A range holds no blanks at its ends. The ranges do not overlap and together
/// hold every character that is not blank. List items, headings, table rows
/// and lines that are not wrapped prose end where their line ends. Linear time.
pub fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = 0;
    for end in line_breaks(text).chain([text.len()]) {
        split_run(text, start, end, &mut found);
        start = end;
    }
    found
}

/// Offsets of the line ends that end a sentence.
fn line_breaks(text: &str) -> impl Iterator<Item = usize> {
    let mut start = 0;
    text.match_indices('\n').filter_map(move |(at, _)| {
        let line = text[start..at].trim();
        let next = text[at + 1..].lines().next().unwrap_or_default().trim();
        start = at + 1;
        ends_at_line_end(line, next).then_some(at)
    })
}

fn ends_at_line_end(line: &str, next: &str) -> bool {
    if line.is_empty() || next.is_empty() || is_marked(next) || line.starts_with(['|', '#']) {
        return true;
    }
    let wrapped = line.chars().nth(WRAPPED_LINE - 1).is_some();
    let continues = next.starts_with(char::is_lowercase);
    !(continues || wrapped)
}

/// Whether a line begins with the mark of a list item, heading, quotation, table row or fence.
fn is_marked(line: &str) -> bool {
    if line.starts_with(['#', '|', '>', '•', '●', '▪', '◦', '‣']) || line.starts_with("```") {
        return true;
    }
    let marker = line.split(' ').next().unwrap_or_default();
    let number = marker.trim_start_matches('(').trim_end_matches(['.', ')']);
    matches!(marker, "-" | "*" | "+" | "–" | "—")
        || (number.len() < marker.len() && is_short_number(number) && marker.len() < line.len())
}

fn is_short_number(word: &str) -> bool {
    (1..=3).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Splits text without such line ends.
fn split_run(text: &str, start: usize, end: usize, found: &mut Vec<Range<usize>>) {
    let run = &text[start..end];
    let mut from = 0;
    let mut characters = run.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if !is_terminator(character) {
            continue;
        }
        let mut after = at + character.len_utf8();
        while let Some((_, next)) = characters.next_if(|(_, next)| is_terminator(*next) || is_closer(*next)) {
            after += next.len_utf8();
        }
        if is_full_width(character) || ends_sentence(run, from, at, after) {
            push_trimmed(run, start, from, after, found);
            from = after;
        }
    }
    push_trimmed(run, start, from, run.len(), found);
}

fn push_trimmed(run: &str, offset: usize, from: usize, to: usize, found: &mut Vec<Range<usize>>) {
    let sentence = &run[from..to];
    let trimmed = sentence.trim();
    if !trimmed.is_empty() {
        let begin = offset + from + sentence.len() - sentence.trim_start().len();
        found.push(begin..begin + trimmed.len());
    }
}

/// Whether the terminator at `at`, closed at `after`, ends the sentence that began at `from`.
fn ends_sentence(run: &str, from: usize, at: usize, after: usize) -> bool {
    let rest = &run[after..];
    let Some(next) = rest.trim_start().chars().find(|c| !is_opener(*c)) else { return true };
    if !rest.starts_with(char::is_whitespace) || next.is_lowercase() {
        return false;
    }
    // What is closed (`…etc.)`) or doubled (`?!`, `...`) is no abbreviation.
    if !run[at..].starts_with('.') || after > at + 1 {
        return true;
    }
    let before = &run[from..at];
    let word = before.rsplit(|c: char| c.is_whitespace() || is_opener(c)).next().unwrap_or_default();
    !is_abbreviation(word, before.trim().len() == word.len(), rest.trim_start(), next)
}

/// Whether the full stop after `word` belongs to it, given what comes next.
fn is_abbreviation(word: &str, is_first: bool, rest: &str, next: char) -> bool {
    let lower = word.to_lowercase();
    if word.is_empty() {
        return false;
    }
    let near = &rest[..rest.floor_char_boundary(NEXT_WORD)];
    let next_word = near.split(|c: char| !c.is_alphanumeric()).find(|w| !w.is_empty()).unwrap_or_default();
    if is_short_number(word) {
        let is_date = word.len() <= 2 && {
            let next_word = next_word.to_lowercase();
            MONTHS.iter().any(|month| next_word.starts_with(month))
        };
        return is_first || is_date;
    }
    let lower = lower.as_str();
    if ABBREVIATIONS.contains(&lower) || (next.is_numeric() && BEFORE_NUMBERS.contains(&lower)) {
        return true;
    }
    let mut letters = word.chars();
    let is_initial = letters.next().is_some_and(|c| c.is_uppercase() && c != 'I') && letters.next().is_none();
    // `U.S`, `a.m`, `Ph.D`: letters and full stops.
    let is_dotted = word.contains('.') && word.split('.').all(|part| (1..=2).contains(&part.chars().count()));
    if is_initial || is_dotted || MAY_END.contains(&lower) {
        return !STARTERS.contains(&next_word);
    }
    false
}

fn is_terminator(character: char) -> bool {
    matches!(character, '.' | '!' | '?' | '…' | '؟' | '۔' | '।' | '॥' | '։' | '።') || is_full_width(character)
}

/// Terminators after which no blank is written.
fn is_full_width(character: char) -> bool {
    matches!(character, '。' | '！' | '？' | '．' | '｡')
}

fn is_closer(character: char) -> bool {
    matches!(
        character,
        ')' | ']' | '}' | '"' | '\'' | '”' | '’' | '»' | '」' | '』' | '）' | '】' | '*' | '_'
    )
}

fn is_opener(character: char) -> bool {
    matches!(character, '(' | '[' | '{' | '"' | '\'' | '“' | '‘' | '„' | '«' | '¿' | '¡' | '*' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| &text[range]).collect()
    }

    #[track_caller]
    fn assert_whole(text: &str) {
        assert_eq!(split(text), [text]);
    }

    #[test]
    fn plain_sentences() {
        assert_eq!(
            split(" One is here. Two! Is it three?  Yes. "),
            ["One is here.", "Two!", "Is it three?", "Yes."]
        );
        assert_eq!(split("He said “Stop.” Then he left."), ["He said “Stop.”", "Then he left."]);
        assert_eq!(split("Really?! Yes (it is.) Well..."), ["Really?!", "Yes (it is.)", "Well..."]);
        assert_eq!(split(""), Vec::<&str>::new());
        assert_eq!(split(" \n\n "), Vec::<&str>::new());
    }

    #[test]
    fn abbreviations_and_numbers_do_not_end_a_sentence() {
        assert_whole("Dr. Smith and Mrs. J. K. Rowling met, e.g. on Jan. 5, see Fig. 3 and No. 5 of vol. 2.");
        assert_whole("It costs 3.5 euros, i.e. approx. 4 dollars vs. St. Malo's 1.000,00.");
        assert_whole("The U.S. Navy and the U.K. Government, Ph.D. Students, at 9 a.m. Monday.");
        assert_whole("See www.example.org/a.html or v1.2.3 of file.txt now.");
        assert_whole("Am 3. Oktober fährt sie z.B. nach Oster.");
        assert_whole("\"Really?\" he asked... and left.");
    }

    #[test]
    fn abbreviations_may_end_a_sentence() {
        assert_eq!(
            split("He lives in the U.S. The house is big."),
            ["He lives in the U.S.", "The house is big."]
        );
        assert_eq!(split("Ropes, nets, etc. They are old."), ["Ropes, nets, etc.", "They are old."]);
        assert_eq!(
            split("She said no. Then it was 1999. All left."),
            ["She said no.", "Then it was 1999.", "All left."]
        );
        assert_eq!(
            split("It opens at 9 a.m. It closes at 5 p.m."),
            ["It opens at 9 a.m.", "It closes at 5 p.m."]
        );
        assert_eq!(split("It was me and I. Go."), ["It was me and I.", "Go."]);
    }

    #[test]
    fn other_scripts() {
        assert_eq!(
            split("渡轮九点出发。真的吗？「是的。」好！"),
            ["渡轮九点出发。", "真的吗？", "「是的。」", "好！"]
        );
        assert_eq!(split("यह एक है। वह दो है।"), ["यह एक है।", "वह दो है।"]);
        assert_eq!(split("هل هذا صحيح؟ نعم."), ["هل هذا صحيح؟", "نعم."]);
        assert_eq!(split("배가 떠난다. 비가 온다."), ["배가 떠난다.", "비가 온다."]);
        assert_eq!(split("¿Qué? ¡No! Así es."), ["¿Qué?", "¡No!", "Así es."]);
        assert_whole("เรือเฟอร์รี่ออกตอนเก้าโมง");
    }

    #[test]
    fn line_ends() {
        assert_eq!(
            split(
                "# Fares\nAdults pay.\n\n- one\n- two goes on\n  here\n1. First. Second\n| a | b |\n| c | d |"
            ),
            [
                "# Fares",
                "Adults pay.",
                "- one",
                "- two goes on\n  here",
                "1. First.",
                "Second",
                "| a | b |",
                "| c | d |"
            ]
        );
        assert_eq!(
            split(
                "This line was wrapped by an editor at a width of\nSeventy letters. Here ends it.\nShort\nLines"
            ),
            [
                "This line was wrapped by an editor at a width of\nSeventy letters.",
                "Here ends it.",
                "Short",
                "Lines"
            ]
        );
        assert_eq!(split("A: 1\r\nB: 2\r\n"), ["A: 1", "B: 2"]);
    }

    #[test]
    fn ranges_hold_everything_but_blanks() {
        let text = "A. b?c \u{3000}。。 \"x.\"\n\n 😀! e\u{301}. …\t1. 2. 3.\r\n|x|";
        let mut covered = vec![false; text.len()];
        let mut last = 0;
        for Range { start, end } in sentences(text) {
            assert!(start >= last && end > start);
            covered[start..end].fill(true);
            last = end;
        }
        assert!(text.char_indices().all(|(at, c)| c.is_whitespace() || covered[at]));
    }
}
