//! What would make the PDF reader run away is refused or taken out before it starts.
//!
//! The reader follows references as they come: a form that draws itself or a
//! page tree that bites its tail would exhaust the stack, which no program survives.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use flate2::read::ZlibDecoder;
use pdf_extract::content::Content;
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
    for object in document.objects.values_mut().filter(|object| has_subtype(object, b"Image")) {
        if let Object::Stream(stream) = object {
            stream.set_plain_content(Vec::new());
        }
    }
    document.objects.values_mut().for_each(spell_out_widths);
    check_page_tree(document)?;
    let forms = forms(document);
    check_forms(document, &forms)?;
    name_fonts_apart(document, &forms);
    Ok(())
}

/// Gives the fonts of every form names of their own.
///
/// The reader keeps fonts by name for a whole page, so that a form would be
/// read with the page's font of the same name, as other letters.
fn name_fonts_apart(document: &mut Document, forms: &HashSet<ObjectId>) {
    for &form in forms {
        let renamed = renamed_fonts(document, form);
        let Ok(stream) = document.get_object_mut(form).and_then(Object::as_stream_mut) else { continue };
        let drawing = stream.get_plain_content().and_then(|content| Content::decode(&content));
        let (Some(resources), Ok(mut content)) = (renamed, drawing) else { continue };
        for operation in content.operations.iter_mut().filter(|operation| operation.operator == "Tf") {
            if let Some(Object::Name(name)) = operation.operands.first_mut() {
                *name = own_name(form, name);
            }
        }
        let Ok(content) = content.encode() else { continue };
        stream.set_plain_content(content);
        stream.dict.set("Resources", resources);
    }
}

/// The resources of a form, its fonts renamed.
fn renamed_fonts(document: &Document, form: ObjectId) -> Option<Dictionary> {
    let stream = document.get_object(form).and_then(Object::as_stream).ok()?;
    let resources = dictionary(document, &stream.dict, b"Resources")?;
    let fonts = dictionary(document, resources, b"Font")?;
    let renamed = fonts.iter().map(|(name, font)| (own_name(form, name), font.clone()));
    let mut resources = resources.clone();
    resources.set("Font", Dictionary::from_iter(renamed));
    Some(resources)
}

fn own_name(form: ObjectId, name: &[u8]) -> Vec<u8> {
    [format!("{}-", form.0).as_bytes(), name].concat()
}

fn has_subtype(object: &Object, subtype: &[u8]) -> bool {
    let stated = object.as_stream().and_then(|stream| stream.dict.get(b"Subtype")).and_then(Object::as_name);
    stated.is_ok_and(|stated| stated == subtype)
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

fn check_forms(document: &Document, forms: &HashSet<ObjectId>) -> Result<(), &'static str> {
    let mut drawn = HashMap::new();
    for id in forms {
        let Ok(form) = document.get_object(*id).and_then(Object::as_stream) else { continue };
        let Some(resources) = dictionary(document, &form.dict, b"Resources") else {
            // It would use those of whoever draws it, where it may find itself.
            if find(&form.get_plain_content().unwrap_or_default(), b"Do").is_some() {
                return Err("a form draws another one without naming its resources");
            }
            continue;
        };
        let named = dictionary(document, resources, b"XObject");
        let inner =
            named.into_iter().flat_map(Dictionary::iter).filter_map(|(_, form)| form.as_reference().ok());
        drawn.insert(*id, inner.filter(|id| forms.contains(id)).collect());
    }
    let mut depths = HashMap::new();
    drawn.keys().try_for_each(|form| depth(*form, &drawn, &mut depths, 0).map(|_| ()))
}

/// What pages and forms may draw, pictures aside: the reader asks for no other sign of a form.
fn forms(document: &Document) -> HashSet<ObjectId> {
    let mut named = HashSet::new();
    for object in document.objects.values() {
        collect_named(document, object, &mut named);
    }
    named
}

/// Streams that the `XObject` dictionaries in `object` name. Objects nest no deeper than the parser lets them.
fn collect_named(document: &Document, object: &Object, named: &mut HashSet<ObjectId>) {
    let inner = match object {
        Object::Dictionary(dictionary) => dictionary,
        Object::Stream(stream) => &stream.dict,
        Object::Array(objects) => {
            return objects.iter().for_each(|object| collect_named(document, object, named));
        }
        _ => return,
    };
    for (_, object) in dictionary(document, inner, b"XObject").into_iter().flat_map(Dictionary::iter) {
        if let Ok(id) = object.as_reference()
            && document.get_object(id).is_ok_and(|object| !has_subtype(object, b"Image"))
        {
            named.insert(id);
        }
    }
    inner.iter().for_each(|(_, object)| collect_named(document, object, named));
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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    #[test]
    fn streams_that_expand_too_far_are_refused_before_they_are_kept() {
        let mut encoder = ZlibEncoder::new(b"stream\n".to_vec(), Compression::best());
        let block = vec![0; 1 << 20];
        for _ in 0..300 {
            encoder.write_all(&block).unwrap();
        }
        let one = encoder.finish().unwrap();
        assert_eq!(check_expansion(&one), Ok(()));
        assert!(check_expansion(&one.repeat(2)).is_err());
    }

    #[test]
    fn widths_of_ranges_are_spelled_out() {
        let number = Object::Integer;
        let given = vec![number(1), number(3), number(500), number(9), Object::Array(vec![number(250)])];
        let mut font = Object::Dictionary(Dictionary::from_iter([("W", Object::Array(given))]));
        spell_out_widths(&mut font);
        let want =
            vec![number(1), Object::Array(vec![number(500); 3]), number(9), Object::Array(vec![number(250)])];
        assert_eq!(font.as_dict().unwrap().get(b"W").unwrap(), &Object::Array(want));
    }
}
