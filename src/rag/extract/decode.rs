//! From bytes to characters: UTF-8, or UTF-16 that says so. Legacy encodings are refused.

use std::str;

use super::ExtractError;

/// How much of a file is looked at to tell binary from text in another encoding, in bytes.
const SAMPLE: usize = 8192;

/// Decodes a text file; a byte-order mark is dropped.
///
/// # Errors
/// [`ExtractError::Binary`], [`ExtractError::NotUtf8`], [`ExtractError::Malformed`] and [`ExtractError::Nul`].
pub(super) fn decode(bytes: &[u8]) -> Result<String, ExtractError> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16("UTF-16LE", rest, u16::from_le_bytes)?,
        [0xfe, 0xff, rest @ ..] => utf16("UTF-16BE", rest, u16::from_be_bytes)?,
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8(rest, 3)?,
        _ => utf8(bytes, 0)?,
    };
    if is_mostly_control(text.as_bytes()) {
        return Err(ExtractError::Binary);
    }
    match text.find('\0') {
        Some(offset) => Err(ExtractError::Nul { offset }),
        None => Ok(text),
    }
}

fn utf8(bytes: &[u8], skipped: usize) -> Result<String, ExtractError> {
    let error = match str::from_utf8(bytes) {
        Ok(text) => return Ok(text.to_owned()),
        Err(error) => error,
    };
    let at = error.valid_up_to();
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    if sample.contains(&0) || is_mostly_control(sample) {
        return Err(ExtractError::Binary);
    }
    Err(ExtractError::NotUtf8 { offset: skipped + at, byte: bytes[at] })
}

fn utf16(encoding: &'static str, bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, ExtractError> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let mut offset = 2;
    let mut text = String::with_capacity(bytes.len());
    for decoded in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        let character = decoded.map_err(|_| ExtractError::Malformed { encoding: encoding.into(), offset })?;
        offset += 2 * character.len_utf16();
        text.push(character);
    }
    if odd.is_empty() { Ok(text) } else { Err(ExtractError::Malformed { encoding: encoding.into(), offset }) }
}

/// Whether control characters that no text uses make up more than a twentieth of the sample.
fn is_mostly_control(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    let is_odd = |byte: &&u8| matches!(byte, 0..=8 | 14..=26 | 28..=31 | 127);
    sample.iter().filter(is_odd).count() * 20 > sample.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_with_and_without_mark() {
        assert_eq!(decode("\u{feff}Größe 😀".as_bytes()).unwrap(), "Größe 😀");
        assert_eq!(decode(b"plain").unwrap(), "plain");
    }

    #[test]
    fn utf16_of_both_orders() {
        let little: Vec<u8> = "\u{feff}é 😀".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = "\u{feff}é 😀".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(&little).unwrap(), "é 😀");
        assert_eq!(decode(&big).unwrap(), "é 😀");
        let lone = [0xff, 0xfe, 0x41, 0x00, 0x00, 0xd8];
        assert_eq!(decode(&lone), Err(ExtractError::Malformed { encoding: "UTF-16LE".into(), offset: 4 }));
        assert_eq!(
            decode(&little[..little.len() - 1]).unwrap_err().to_string(),
            "not valid UTF-16LE: malformed at byte offset 6"
        );
    }

    #[test]
    fn legacy_encodings_are_refused_with_the_offset() {
        let error = decode(b"Gr\xf6\xdfe in Latin-1").unwrap_err();
        assert_eq!(error, ExtractError::NotUtf8 { offset: 2, byte: 0xf6 });
        assert_eq!(
            error.to_string(),
            "not UTF-8 text: invalid byte 0xf6 at offset 2; convert the file to UTF-8"
        );
        let marked = decode(b"\xef\xbb\xbfab\xff").unwrap_err();
        assert_eq!(marked, ExtractError::NotUtf8 { offset: 5, byte: 0xff });
    }

    #[test]
    fn binary_is_told_from_text() {
        assert_eq!(decode(b"\x01\x02\x03\x04abc"), Err(ExtractError::Binary));
        assert_eq!(decode(b"head\0\xff\xfe\x80 tail"), Err(ExtractError::Binary));
        assert_eq!(decode(b"an escape \x1b[0m and a page break \x0c in a log").unwrap().len(), 42);
    }

    #[test]
    fn nul_in_text_is_refused_not_removed() {
        let text = "a long enough sentence with one NUL \0 inside of it";
        assert_eq!(decode(text.as_bytes()), Err(ExtractError::Nul { offset: 36 }));
    }
}
