//! Encodings that RTF names by number.

use encoding_rs::Encoding;

/// The encoding of a Windows code page.
pub(super) fn of_codepage(number: i32) -> Option<&'static Encoding> {
    codepage::to_encoding(u16::try_from(number).ok()?)
}

/// The encoding of a font's character set; nothing for those that have none of their own.
pub(super) fn of_font(charset: i32) -> Option<&'static Encoding> {
    of_codepage(match charset {
        128 => 932,
        129 => 949,
        134 => 936,
        136 => 950,
        161 => 1253,
        162 => 1254,
        163 => 1258,
        177 => 1255,
        178 => 1256,
        186 => 1257,
        204 => 1251,
        222 => 874,
        238 => 1250,
        _ => return None,
    })
}
