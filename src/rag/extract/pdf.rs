//! PDF with a text layer, read by `pdf-extract`, which panics on what it does not know.

use std::any::Any;
use std::panic;
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use pdf_extract::{Document, Error, Object, decode_text_string};

use super::layout::Layout;
use super::{ExtractError, Extracted, Format, finish, paragraphs, preflight, tidy};

/// Name of the threads whose panics are answered with an error and not printed.
const THREAD: &str = "pdf-reader";

/// The reader recurses over nested objects.
const STACK_BYTES: usize = 64 << 20;

const MAX_GLYPHS: usize = 50_000_000;
const MAX_DURATION: Duration = Duration::from_secs(60);

/// Reads the text layer.
pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    on_reader_thread(|| read(bytes)).unwrap_or_else(|reason| Err(bad(reason)))
}

fn read(bytes: &[u8]) -> Result<Extracted, ExtractError> {
    preflight::check_expansion(bytes).map_err(bad)?;
    let mut document = Document::load_mem(bytes.trim_ascii_start()).map_err(refusal)?;
    if document.is_encrypted() {
        document.decrypt("").map_err(|_| ExtractError::Encrypted)?;
    }
    preflight::prepare(&mut document).map_err(bad)?;
    let mut layout = Layout::new(MAX_GLYPHS, Instant::now() + MAX_DURATION);
    pdf_extract::output_doc(&document, &mut layout).map_err(bad)?;
    if layout.pages.iter().all(Vec::is_empty) {
        return Err(ExtractError::NoTextLayer);
    }
    if layout.unmapped * 3 > layout.glyphs {
        return Err(ExtractError::UnmappedText);
    }
    finish(title(&document), tidy::tidy(&paragraphs::join(&layout.pages)), Format::Pdf)
}

fn refusal(error: Error) -> ExtractError {
    match error {
        Error::Decryption(_) | Error::InvalidPassword => ExtractError::Encrypted,
        other => bad(other),
    }
}

fn bad(reason: impl ToString) -> ExtractError {
    ExtractError::BadPdf { reason: reason.to_string() }
}

/// The title in the document's information, unless a program made it up from a file name.
fn title(document: &Document) -> Option<String> {
    let information = document.trailer.get(b"Info").and_then(Object::as_reference).ok()?;
    let title = document.get_dictionary(information).and_then(|info| info.get(b"Title")).ok()?;
    let title = decode_text_string(title).ok()?;
    let title = title.split_whitespace().collect::<Vec<_>>().join(" ").replace('\0', "");
    let lower = title.to_lowercase();
    let is_made_up = lower.starts_with("microsoft word -")
        || lower.starts_with("untitled")
        || lower.starts_with("slide 1");
    (!title.is_empty() && !is_made_up).then_some(title)
}

/// Runs `work` on a thread with a stack of its own; a panic becomes its message.
fn on_reader_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    silence_reader_threads();
    thread::scope(|scope| {
        let reader = thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK_BYTES);
        let running = reader.spawn_scoped(scope, work).map_err(|error| error.to_string())?;
        running.join().map_err(|payload| message(&*payload))
    })
}

/// Panics of reader threads are answers about a file: they are not printed.
fn silence_reader_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            if thread::current().name() != Some(THREAD) {
                print(information);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    format!("malformed or not supported ({})", line.chars().take(120).collect::<String>())
}
