//! Strings that end an answer.

/// Text of an answer on its way out, held back where a stop string may have begun.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    ended: bool,
}

impl StopStrings {
    /// Empty strings end nothing.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new(), ended: false }
    }

    /// Takes more of the answer and gives what can be shown; nothing of the first stop string and
    /// after it ever is.
    pub fn push(&mut self, text: &str) -> String {
        if self.ended {
            return String::new();
        }
        self.held.push_str(text);
        let first = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min();
        if let Some(first) = first {
            self.ended = true;
            self.held.truncate(first);
            return std::mem::take(&mut self.held);
        }
        let begun = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - begun);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string has come.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What was held back, at the end of an answer that no stop string ended.
    pub fn finish(self) -> String {
        if self.ended { String::new() } else { self.held }
    }
}

/// Bytes at the end of `text` with which `stop` begins.
fn begun(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(start, _)| start).skip(1);
    starts.filter(|&start| text.ends_with(&stop[..start])).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out for these parts, and whether a stop string ended it.
    fn shown(stops: &[&str], parts: &[&str]) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stop = StopStrings::new(&stops);
        let shown: Vec<String> = parts.iter().map(|part| stop.push(part)).collect();
        let ended = stop.ended();
        (shown, stop.finish(), ended)
    }

    #[test]
    fn text_without_a_stop_string_comes_at_once() {
        let (parts, rest, ended) = shown(&["STOP", ""], &["One, ", "two", "."]);
        assert_eq!(parts, ["One, ", "two", "."]);
        assert!(rest.is_empty() && !ended);
    }

    #[test]
    fn a_stop_string_across_parts_is_never_shown() {
        let (parts, rest, ended) = shown(&["\n\nUser:"], &["Yes.", "\n", "\nUs", "er", ": no", "more"]);
        assert_eq!(parts, ["Yes.", "", "", "", "", ""]);
        assert!(rest.is_empty() && ended);
    }

    #[test]
    fn what_only_looked_like_one_follows() {
        let (parts, rest, ended) = shown(&["aab"], &["aa", "ab!", "a"]);
        assert_eq!((parts, ended), (vec![String::new(), "a".into(), String::new()], true));
        assert!(rest.is_empty());
        let (parts, rest, ended) = shown(&["\n\n"], &["a\n", "b\n"]);
        assert_eq!(parts, ["a", "\nb"]);
        assert_eq!((rest.as_str(), ended), ("\n", false));
    }

    #[test]
    fn the_first_of_several_counts() {
        let (parts, _, ended) = shown(&["three", "two"], &["one two three"]);
        assert_eq!((parts, ended), (vec!["one ".to_owned()], true));
    }

    #[test]
    fn characters_of_many_bytes_are_not_cut() {
        let (parts, rest, ended) = shown(&["漢字。", "é"], &["a漢", "字", "!漢字"]);
        assert_eq!(parts, ["a", "", "漢字!"]);
        assert_eq!((rest.as_str(), ended), ("漢字", false));
    }
}
