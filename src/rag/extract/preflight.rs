//! What would make the PDF reader run away is refused or taken out before it starts.
//!
//! The reader follows references as they come: a form that draws itself or a
//! page tree that bites its tail would exhaust the stack, which no program survives.

use std::collections::HashMap;
use std::io::Read;

use flate2::read::ZlibDecoder;
use pdf_extract::{Dictionary, Document, Object, ObjectId};

/// Bytes that all compressed streams of a file may expand to.
const MAX_EXPANDED: u64 = 512 << 20;

/// How deep forms may draw forms, and nodes of the page tree may nest.
const MAX_NESTING: usize = 16;

/// Refuses a file whose deflated streams expand beyond [`MAX_EXPANDED`], before anything keeps them.
pub(super) fn check_expansion(bytes: &[u8]) -> Result<(), &'static str> {
    let mut left = MAX_EXPANDED;
    let mut rest = bytes;
    while let Some(at) = find(rest, b"stream") {
        rest = &rest[at + b"stream".len()..];
        let data = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n"));
        // A zlib header: method 8, window of at most 32 KiB, a multiple of 31.
        let Some(data) = data.filter(|data| matches!(data, [0x08..=0x78, second, ..] if data[0] & 15 == 8 && (u16::from(data[0]) * 256 + u16::from(*second)) % 31 == 0))
        else {
            continue;
        };
        let mut decoder = ZlibDecoder::new(data).take(left + 1);
        // Damaged streams are the reader's to judge: what they gave so far counts.
        let _ = std::io::copy(&mut decoder, &mut std::io::sink());
        left = decoder.limit().checked_sub(1).ok_or("it expands to more than 512 MiB")?;
    }
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Empties pictures, which the reader would parse as drawing commands, and
/// refuses forms and page trees that nest without end.
pub(super) fn prepare(document: &mut Document) -> Result<(), &'static str> {
    for object in document.objects.values_mut() {
        if let Object::Stream(stream) = object
            && stream.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|name| name == b"Image")
        {
            stream.dict.remove(b"Filter");
            stream.set_content(Vec::new());
        }
    }
    document.objects.values_mut().for_each(spell_out_widths);
    check_page_tree(document)?;
    check_forms(document)
}

/// Rewrites `first last width` in the widths of a CID font as `first [width …]`:
/// the reader ignores the short form, and then misses the gaps between words.
fn spell_out_widths(object: &mut Object) {
    let Ok(Object::Array(widths)) = object.as_dict_mut().and_then(|font| font.get_mut(b"W")) else { return };
    let mut spelled = Vec::with_capacity(widths.len());
    let mut rest = widths.as_slice();
    loop {
        rest = match rest {
            [first, array @ Object::Array(_), after @ ..] => {
                spelled.extend([first.clone(), array.clone()]);
                after
            }
            [Object::Integer(first), Object::Integer(last), width, after @ ..] => {
                let count = (last - first + 1).clamp(0, 0x1_0000) as usize;
                spelled.extend([Object::Integer(*first), Object::Array(vec![width.clone(); count])]);
                after
            }
            [] => break,
            // Not what the format says: the reader may judge it.
            _ => return,
        };
    }
    *widths = spelled;
}

fn check_page_tree(document: &Document) -> Result<(), &'static str> {
    for page in document.page_iter() {
        let mut node = document.get_dictionary(page).ok();
        for level in 0.. {
            let Some(dictionary) = node else { break };
            if level > MAX_NESTING {
                return Err("its page tree nests without end");
            }
            let parent = dictionary.get(b"Parent").and_then(Object::as_reference);
            node = parent.and_then(|id| document.get_dictionary(id)).ok();
        }
    }
    Ok(())
}

fn check_forms(document: &Document) -> Result<(), &'static str> {
    let is_form = |object: &Object| {
        object
            .as_stream()
            .is_ok_and(|s| s.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|n| n == b"Form"))
    };
    let mut drawn: HashMap<ObjectId, Vec<ObjectId>> = HashMap::new();
    for (id, object) in document.objects.iter().filter(|(_, object)| is_form(object)) {
        let Ok(stream) = object.as_stream() else { continue };
        let Some(resources) = dictionary(document, &stream.dict, b"Resources") else {
            // It would use those of whoever draws it, where it may find itself.
            if find(&stream.decompressed_content().unwrap_or_default(), b"Do").is_some() {
                return Err("a form draws another one without naming its resources");
            }
            continue;
        };
        let named = dictionary(document, resources, b"XObject");
        let ids =
            named.into_iter().flat_map(|d| d.iter()).filter_map(|(_, object)| object.as_reference().ok());
        drawn.insert(*id, ids.filter(|id| document.get_object(*id).is_ok_and(is_form)).collect());
    }
    let mut depths = HashMap::new();
    drawn.keys().try_for_each(|form| depth(*form, &drawn, &mut depths, 0).map(|_| ()))
}

/// How deep forms nest under `form`.
fn depth(
    form: ObjectId,
    drawn: &HashMap<ObjectId, Vec<ObjectId>>,
    depths: &mut HashMap<ObjectId, usize>,
    above: usize,
) -> Result<usize, &'static str> {
    if above > MAX_NESTING {
        return Err("its forms draw each other without end");
    }
    if let Some(known) = depths.get(&form) {
        return Ok(*known);
    }
    let mut deepest = 0;
    for inner in drawn.get(&form).into_iter().flatten() {
        deepest = deepest.max(1 + depth(*inner, drawn, depths, above + 1)?);
    }
    depths.insert(form, deepest);
    Ok(deepest)
}

fn dictionary<'a>(document: &'a Document, parent: &'a Dictionary, key: &[u8]) -> Option<&'a Dictionary> {
    match parent.get(key).ok()? {
        Object::Dictionary(dictionary) => Some(dictionary),
        Object::Reference(id) => document.get_dictionary(*id).ok(),
        _ => None,
    }
}
