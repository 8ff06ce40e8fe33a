//! What a text is found by: words, and pairs of characters where there are no spaces.
//!
//! Words are cut here and stemmed by PostgreSQL, in the language of the passage.
//! Chinese, Japanese, Korean, Thai and their neighbours are cut into overlapping
//! pairs of characters, which PostgreSQL's parser does not do.

use unicode_normalization::UnicodeNormalization;
use unicode_segmentation::UnicodeSegmentation;
use whichlang::Lang;

/// Bytes of a passage that are read; far over what passages have.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Longer ones are no words, but data.
const MAX_WORD_BYTES: usize = 255;

/// A term of passages in scripts without spaces, which no text has: PostgreSQL's configurations
/// do not tell them from English.
pub(super) const UNSPACED: &str = "#unspaced";

/// A passage's terms, for PostgreSQL to stem and join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PassageTerms {
    /// A text search configuration.
    pub language: &'static str,
    /// Words, separated by spaces.
    pub text: String,
    /// Pairs and single characters, as a `tsvector`.
    pub signs: String,
    /// Words and pairs.
    pub length: i32,
}

/// What a query asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct QueryTerms {
    /// To be stemmed.
    pub words: Vec<String>,
    /// Terms as they are.
    pub signs: Vec<String>,
    /// Whether most of it is in scripts without spaces.
    pub is_unspaced: bool,
}

impl PassageTerms {
    /// Of a passage under its heading.
    pub(super) fn of(heading: Option<&str>, content: &str) -> Self {
        let text = format!("{}\n{content}", heading.unwrap_or_default());
        let Pieces { words, runs } = Pieces::of(shortened(&text));
        let mut signs = String::new();
        let mut position = 0;
        for run in &runs {
            for start in 0..run.len() {
                position += 1;
                let single = Some(run[start].clone());
                let pair = run.get(start..start + 2).map(<[String]>::concat);
                for sign in single.into_iter().chain(pair) {
                    signs.push_str(&format!("{}:{position} ", quoted(&sign)));
                }
            }
        }
        let pairs = pairs(&runs);
        if pairs > words.len() {
            signs.push_str(&quoted(UNSPACED));
        }
        Self {
            language: configuration(&text),
            length: i32::try_from(words.len() + pairs).unwrap_or(i32::MAX),
            text: words.join(" "),
            signs,
        }
    }
}

impl QueryTerms {
    /// The different terms of a query, in its order, `most` of them.
    pub(super) fn of(query: &str, most: usize) -> Self {
        let Pieces { words, runs } = Pieces::of(shortened(query));
        let is_unspaced = pairs(&runs) > words.len();
        let mut signs = Vec::new();
        for run in runs {
            match run.as_slice() {
                [single] => signs.push(single.clone()),
                run => signs.extend(run.windows(2).map(<[String]>::concat)),
            }
        }
        let mut terms = Self { words: distinct(words), signs: distinct(signs), is_unspaced };
        terms.words.truncate(most);
        terms.signs.truncate(most);
        terms
    }
}

/// How many terms a text has of scripts without spaces.
fn pairs(runs: &[Vec<String>]) -> usize {
    runs.iter().map(|run| run.len().saturating_sub(1).max(1)).sum()
}

/// A text taken apart.
struct Pieces {
    words: Vec<String>,
    /// Characters that follow each other, of scripts that put no spaces between words; emoji alone.
    runs: Vec<Vec<String>>,
}

impl Pieces {
    fn of(text: &str) -> Self {
        let normal: String = text.nfkc().collect();
        let mut spaced = String::with_capacity(normal.len());
        let mut runs: Vec<Vec<String>> = Vec::new();
        let mut in_run = false;
        for character in normal.graphemes(true) {
            let first = character.chars().next().unwrap_or(' ');
            let unspaced = is_unspaced(first);
            match runs.last_mut() {
                Some(run) if unspaced && in_run => run.push(character.to_owned()),
                _ if unspaced || is_pictograph(first) => {
                    // The selector of the coloured form is no part of what is shown.
                    runs.push(vec![character.replace('\u{fe0f}', "")]);
                    spaced.push(' ');
                }
                _ => spaced.push_str(character),
            }
            in_run = unspaced;
        }
        let words = spaced.unicode_words().flat_map(parts).filter(|word| word.len() <= MAX_WORD_BYTES);
        Self { words: words.map(str::to_owned).collect(), runs }
    }
}

/// `state_of`, `l'eau` and `node.js` are two words each, `3.50` is one.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let number = word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let joins = move |c: char| match c {
        '.' => !number,
        '’' | '‘' | '·' => true,
        _ => c.is_ascii_punctuation(),
    };
    word.split(joins).filter(|part| !part.is_empty())
}

fn is_unspaced(c: char) -> bool {
    matches!(c,
        '々' | '〆' | '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}'         // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' // Han
        | '\u{20000}'..='\u{3ffff}' | '\u{3105}'..='\u{312f}'
        | '\u{1100}'..='\u{11ff}' | '\u{3131}'..='\u{318e}' | '\u{ac00}'..='\u{d7ff}' // Hangul
        | '\u{e01}'..='\u{e4e}' | '\u{e81}'..='\u{ece}'                           // Thai, Lao
        | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17d3}')                      // Burmese, Khmer
        && c.is_alphanumeric()
}

fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{1f000}'..='\u{1faff}' | '\u{2600}'..='\u{27bf}' | '\u{2b00}'..='\u{2bff}')
}

/// PostgreSQL's configuration for the language of a text; for texts without spaces that of the
/// Latin words that stand in them most.
pub(super) fn configuration(text: &str) -> &'static str {
    match whichlang::detect_language(text) {
        Lang::Ara => "arabic",
        Lang::Deu => "german",
        Lang::Fra => "french",
        Lang::Hin => "hindi",
        Lang::Ita => "italian",
        Lang::Nld => "dutch",
        Lang::Por => "portuguese",
        Lang::Rus => "russian",
        Lang::Spa => "spanish",
        Lang::Swe => "swedish",
        Lang::Tur => "turkish",
        Lang::Vie => "simple",
        Lang::Eng | Lang::Cmn | Lang::Jpn | Lang::Kor => "english",
    }
}

/// A term as it stands in a `tsvector` or a `tsquery`.
pub(super) fn quoted(term: &str) -> String {
    format!("'{}'", term.replace('\\', "\\\\").replace('\'', "''"))
}

fn shortened(text: &str) -> &str {
    let end = text.char_indices().map(|(index, _)| index).find(|index| *index >= MAX_TEXT_BYTES);
    &text[..end.unwrap_or(text.len())]
}

fn distinct(terms: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    terms.into_iter().filter(|term| seen.insert(term.to_lowercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> (Vec<String>, Vec<String>) {
        let terms = QueryTerms::of(text, 64);
        (terms.words, terms.signs)
    }

    #[test]
    fn words_are_cut_where_people_would() {
        let (words, signs) = query("The ABC-123 of node.js costs 3.50 €, l’eau don't_know");
        assert_eq!(
            words,
            ["The", "ABC", "123", "of", "node", "js", "costs", "3.50", "l", "eau", "don", "t", "know"]
        );
        assert!(signs.is_empty());
        // Compatibility forms and combined accents are one spelling.
        assert_eq!(query("ＧＰＵ cafe\u{301}").0, ["GPU", "café"]);
        assert_eq!(query("").0, [""; 0]);
        assert_eq!(query(&"x".repeat(300)).0, [""; 0]);
        assert_eq!(query("Word word WORD").0, ["Word"]);
    }

    #[test]
    fn scripts_without_spaces_become_pairs() {
        assert_eq!(query("模型训练很慢").1, ["模型", "型训", "训练", "练很", "很慢"]);
        assert_eq!(query("猫").1, ["猫"]);
        assert_eq!(query("データ。学習").1, ["デー", "ータ", "学習"]);
        assert_eq!(query("훈련 데이터").1, ["훈련", "데이", "이터"]);
        // A vowel sign stays with its consonant.
        assert_eq!(query("ที่นี่").1, ["ที่นี่"]);
        let (words, signs) = query("GPU训练 batch");
        assert_eq!((words, signs), (vec!["GPU".to_owned(), "batch".to_owned()], vec!["训练".to_owned()]));
    }

    #[test]
    fn emoji_are_terms() {
        assert_eq!(query("ferry 🚢🚢 👩‍🚀 ❤️").1, ["🚢", "👩‍🚀", "❤"]);
    }

    #[test]
    fn a_passage_has_pairs_and_single_characters_with_positions() {
        let terms = PassageTerms::of(Some("GPU"), "训练慢 the models");
        assert_eq!(terms.text, "GPU the models");
        assert_eq!(terms.signs, "'训':1 '训练':1 '练':2 '练慢':2 '慢':3 ");
        assert_eq!(terms.length, 5);
        assert_eq!(PassageTerms::of(None, "Der Zug fährt heute nicht nach Hamburg.").language, "german");
        assert_eq!(PassageTerms::of(None, "The train to Hamburg is late today.").language, "english");
        assert_eq!(PassageTerms::of(None, "").length, 0);
        assert_eq!(quoted(r"a'b\c"), r"'a''b\\c'");
    }
}
