//! Server-sent events, from their bytes to the data of each.

use std::collections::VecDeque;

/// Longest event that is read, in bytes.
const LONGEST_EVENT: usize = 16 << 20;

/// Cuts a body into the data of its events. Names, ids and comments are passed over.
#[derive(Debug, Default)]
pub struct EventReader {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    returned: bool,
    data: Option<Vec<u8>>,
    ready: VecDeque<String>,
}

/// An event that is longer than what is read of one.
#[derive(Debug)]
pub struct TooLong;

impl EventReader {
    /// Takes the next bytes of the body.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let continued = self.returned && end == 0 && rest[0] == b'\n';
            self.returned = rest[end] == b'\r';
            if !continued {
                self.line.extend_from_slice(&rest[..end]);
                self.end_line();
            }
            rest = &rest[end + 1..];
        }
        if !rest.is_empty() {
            self.returned = false;
            self.line.extend_from_slice(rest);
        }
        let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if held > LONGEST_EVENT { Err(TooLong) } else { Ok(()) }
    }

    /// The data of the next whole event.
    pub fn pop(&mut self) -> Option<String> {
        self.ready.pop_front()
    }

    /// The body has ended: what an empty line should have ended is an event too.
    pub fn finish(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
        self.end_event();
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.end_event();
        }
        let Some(value) = line.strip_prefix(b"data:") else { return };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
    }

    fn end_event(&mut self) {
        if let Some(data) = self.data.take() {
            self.ready.push_back(String::from_utf8_lossy(&data).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EventReader;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut reader = EventReader::default();
        for piece in pieces {
            reader.push(piece).unwrap();
        }
        reader.finish();
        std::iter::from_fn(|| reader.pop()).collect()
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let body = ": hello\r\nevent: message\r\ndata: {\"a\":1}\r\n\r\ndata:two\ndata: lines é\n\nid: 7\n\ndata: end";
        let wanted = ["{\"a\":1}", "two\nlines é", "end"];
        assert_eq!(events(&[body.as_bytes()]), wanted);
        for size in 1..body.len() {
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            assert_eq!(events(&pieces), wanted, "in pieces of {size}");
        }
        let returns = body.replace("\r\n", "\n").replace('\n', "\r");
        assert_eq!(events(&[returns.as_bytes()]), wanted);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut reader = EventReader::default();
        let piece = vec![b'x'; 1 << 20];
        assert!((0..40).any(|_| reader.push(&piece).is_err()));
    }

    #[test]
    fn a_page_holds_no_events() {
        assert!(events(&[b"<html>\n<body>\n\n</body>"]).is_empty());
    }
}
