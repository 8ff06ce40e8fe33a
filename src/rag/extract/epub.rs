//! E-books: the chapters in reading order, each an XHTML page.

use std::collections::HashMap;

use super::{
    ExtractError, Extracted, Format, archive::Archive, decode, finish, html, markdown::Markdown,
    stated_title, xml,
};

const FORMAT: Format = Format::Epub;

pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    let mut archive = Archive::open(bytes, FORMAT)?;
    refuse_protected(&mut archive)?;
    let package = package_path(&mut archive)?;
    let text = xml::text(FORMAT, &package, &archive.require(&package)?)?;
    let document = xml::parse(FORMAT, &package, &text)?;
    let title = xml::all(document.root(), "title").next().map(xml::inner_text);
    let item = |node| Some((xml::attribute(node, "id")?, xml::attribute(node, "href")?));
    let items: HashMap<&str, &str> = xml::all(document.root(), "item").filter_map(item).collect();
    let folder = package.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut out = Markdown::default();
    for chapter in xml::all(document.root(), "itemref") {
        let Some(href) = xml::attribute(chapter, "idref").and_then(|id| items.get(id)) else { continue };
        let path = join(folder, href);
        let page = decode::decode(&archive.require(&path)?)
            .map_err(|error| FORMAT.broken(format!("{path}: {error}")))?;
        match html::extract(&page) {
            Ok(page) => out.raw(&page.text),
            // A cover is a picture.
            Err(ExtractError::Empty) => {}
            Err(error) => return Err(error),
        }
        out.check_size()?;
    }
    finish(title.and_then(|title| stated_title(&title)), out.finish(), FORMAT)
}

/// Where the container says that the book's description is.
fn package_path(archive: &mut Archive) -> Result<String, ExtractError> {
    const CONTAINER: &str = "META-INF/container.xml";
    let text = xml::text(FORMAT, CONTAINER, &archive.require(CONTAINER)?)?;
    let document = xml::parse(FORMAT, CONTAINER, &text)?;
    let path = xml::all(document.root(), "rootfile").find_map(|node| xml::attribute(node, "full-path"));
    path.map(str::to_owned).ok_or_else(|| FORMAT.broken(format!("{CONTAINER} names no book")))
}

/// Books that only a licence opens. Fonts are often garbled on purpose, which does no harm.
fn refuse_protected(archive: &mut Archive) -> Result<(), ExtractError> {
    const ENCRYPTION: &str = "META-INF/encryption.xml";
    let Some(bytes) = archive.read(ENCRYPTION)? else { return Ok(()) };
    let text = xml::text(FORMAT, ENCRYPTION, &bytes)?;
    let document = xml::parse(FORMAT, ENCRYPTION, &text)?;
    let is_font = |algorithm: &str| algorithm.contains("embedding") || algorithm.ends_with("enc#RC");
    let mut methods = xml::all(document.root(), "EncryptionMethod");
    let hides_text = methods.any(|node| !xml::attribute(node, "Algorithm").is_some_and(is_font));
    if hides_text { Err(ExtractError::Encrypted { format: FORMAT }) } else { Ok(()) }
}

/// A chapter's address, relative to the folder of the description.
fn join(folder: &str, href: &str) -> String {
    let href = href.split('#').next().unwrap_or_default();
    let base = url::Url::parse("epub:///").and_then(|base| base.join(&format!("{folder}/")));
    let path = base.and_then(|base| base.join(href)).map(|url| url.path().to_owned());
    percent_decoded(path.as_deref().unwrap_or(href).trim_start_matches('/'))
}

fn percent_decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.filter(|_| *first == b'%').and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
