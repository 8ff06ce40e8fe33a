//! Readers of foreign formats run here: on a thread with a deep stack, whose panics are answers.

use std::{any::Any, panic, sync::Once, thread};

use super::ExtractError;

/// Name of the threads whose panics are answered with an error and not printed.
const THREAD: &str = "file-reader";

/// Readers recurse over nested objects.
const STACK_BYTES: usize = 64 << 20;

/// Runs a reader; a panic becomes an error about the file.
pub(super) fn guarded<T: Send>(
    read: impl FnOnce() -> Result<T, ExtractError> + Send,
    broken: impl FnOnce(String) -> ExtractError,
) -> Result<T, ExtractError> {
    silence_readers();
    thread::scope(|scope| {
        let reader = thread::Builder::new().name(THREAD.to_owned()).stack_size(STACK_BYTES);
        match reader.spawn_scoped(scope, read).map(thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(payload)) => Err(broken(message(&*payload))),
            Err(error) => Err(broken(format!("no thread to read it on: {error}"))),
        }
    })
}

/// Panics of readers are answers about a file: they are not printed.
fn silence_readers() {
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
