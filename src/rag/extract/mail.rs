//! E-mails: who wrote what to whom, and the attachments that can be read.

use std::borrow::Cow;

use mail_parser::{Address, Message, MessageParser, MessagePart, MimeHeaders, PartType};

use super::{ExtractError, Extracted, Format, decode, finish, html, markdown::Markdown, read};

const FORMAT: Format = Format::Eml;

/// How deep mails may be attached to mails.
const MAX_DEPTH: usize = 4;

/// Reads a message as it was sent; `depth` counts the messages that it is attached to.
pub(super) fn extract(bytes: &[u8], depth: usize) -> Result<Extracted, ExtractError> {
    // Mail is ASCII with declared encodings inside; what was saved as UTF-16 becomes so again.
    let bytes = match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Cow::Owned(decode::decode(bytes)?.into_bytes()),
        [0xef, 0xbb, 0xbf, rest @ ..] => Cow::Borrowed(rest),
        _ => Cow::Borrowed(bytes),
    };
    if bytes.trim_ascii().is_empty() {
        return Err(ExtractError::Empty);
    }
    let message = MessageParser::default().parse(bytes.as_ref());
    let is_mail = |message: &Message| {
        message.from().is_some()
            || message.to().is_some()
            || message.subject().is_some()
            || message.date().is_some()
    };
    let message = message.filter(is_mail);
    let message =
        message.ok_or_else(|| FORMAT.broken("it does not begin with the header of a message".into()))?;
    let mut out = Markdown::default();
    write_message(&message, depth, &mut out)?;
    finish(message.subject().and_then(super::stated_title), out.finish(), FORMAT)
}

fn write_message(message: &Message, depth: usize, out: &mut Markdown) -> Result<(), ExtractError> {
    out.heading(depth + 1, message.subject().unwrap_or_default());
    let mut header = String::new();
    for (field, address) in [("From", message.from()), ("To", message.to()), ("Cc", message.cc())] {
        if let Some(addresses) = address.map(addresses).filter(|addresses| !addresses.is_empty()) {
            header.push_str(&format!("{field}: {addresses}\n"));
        }
    }
    if let Some(date) = message.date() {
        header.push_str(&format!("Date: {}\n", date.to_rfc3339()));
    }
    out.paragraph(&header);
    if is_encrypted(message) {
        return Err(ExtractError::Encrypted { format: FORMAT });
    }
    for part in message.text_bodies() {
        match &part.body {
            PartType::Text(text) => out.text(text),
            PartType::Html(page) => write_html(page, out)?,
            _ => {}
        }
    }
    out.check_size()?;
    message.attachments().try_for_each(|attachment| write_attachment(attachment, depth, out))
}

fn write_html(page: &str, out: &mut Markdown) -> Result<(), ExtractError> {
    match html::extract(page) {
        Ok(page) => out.raw(&page.text),
        Err(ExtractError::Empty) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// An attachment is read as a file of its own would be. One that cannot be is named, with the reason.
fn write_attachment(part: &MessagePart, depth: usize, out: &mut Markdown) -> Result<(), ExtractError> {
    let name = part.attachment_name();
    let label = name.unwrap_or("without a name");
    if depth + 1 > MAX_DEPTH {
        out.paragraph(&format!("Attachment: {label} (not read: mails are attached to each other too deep)"));
        return Ok(());
    }
    if let PartType::Message(message) = &part.body {
        return write_message(message, depth + 1, out);
    }
    let media = part.content_type().map(|kind| match kind.subtype() {
        Some(subtype) => format!("{}/{subtype}", kind.ctype()),
        None => kind.ctype().to_owned(),
    });
    match read(name, media.as_deref(), part.contents(), depth + 1) {
        Ok(attached) => {
            out.heading(depth + 2, &format!("Attachment: {label}"));
            if attached.format.is_markdown() { out.raw(&attached.text) } else { out.text(&attached.text) }
        }
        Err(error) => out.paragraph(&format!("Attachment: {label} (not read: {})", error.reason())),
    }
    out.check_size()
}

/// S/MIME and PGP: what can be read is not the message.
fn is_encrypted(message: &Message) -> bool {
    message.content_type().is_some_and(|kind| {
        let subtype = kind.subtype().unwrap_or_default().to_ascii_lowercase();
        subtype == "encrypted"
            || subtype.ends_with("pkcs7-mime") && kind.attribute("smime-type") != Some("signed-data")
    })
}

fn addresses(addresses: &Address) -> String {
    let one = |address: &mail_parser::Addr| match (address.name(), address.address()) {
        (Some(name), Some(address)) => Some(format!("{name} <{address}>")),
        (name, address) => name.or(address).map(str::to_owned),
    };
    addresses.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}
