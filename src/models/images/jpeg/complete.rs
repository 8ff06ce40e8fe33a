//! Whether a JPEG file holds its end.

/// Whether an end-of-image marker follows the first scan.
///
/// Thumbnails inside the header's segments have such markers too; segments are
/// skipped by their length. ITU-T T.81, annex B.
pub fn is_complete(file: &[u8]) -> bool {
    scan(file).is_some_and(|scan| scan.windows(2).any(|pair| pair == [0xFF, 0xD9]))
}

/// What follows the header of the first scan.
fn scan(file: &[u8]) -> Option<&[u8]> {
    let mut rest = file.get(2..)?;
    loop {
        // Any number of 0xFF may stand before a marker.
        let at = rest.iter().position(|byte| *byte == 0xFF)?;
        let filled = rest[at..].iter().position(|byte| *byte != 0xFF)?;
        let marker = rest[at + filled];
        rest = &rest[at + filled + 1..];
        if matches!(marker, 0x00 | 0x01 | 0xD0..=0xD8) {
            continue; // These stand alone.
        }
        let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        rest = rest.get(length..)?;
        if marker == 0xDA {
            return Some(rest);
        }
    }
}
