//! The process that reads files: bounded in memory and time, and nobody else's.
//!
//! It speaks over a socket that is its standard input, since readers print what they
//! like to standard output. A request is a [`Request`] and the file; the reply a result
//! and the text. Each part has its length before it.

use std::{
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use rlimit::Resource;
use serde::{Deserialize, Serialize};

use super::{ExtractError, Extracted, MAX_TEXT, extract};

/// What is known of a file beside its bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub name: Option<String>,
    pub content_type: Option<String>,
}

/// Longest part that is taken from the other side.
pub(super) const MAX_PART: u32 = 1 << 31;

/// Seconds of processor time that a file may take beyond the time that the server waits
/// for it: the server ends it before, unless it has ended itself.
const GRACE: Duration = Duration::from_secs(5);

/// Reads files for the server that started this process, until it closes the socket.
///
/// `memory` is in bytes of address space, `time` bounds the processor time of each file.
pub fn serve(memory: u64, time: Duration) -> io::Result<()> {
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    if stream.peer_addr().is_err() {
        return Err(io::Error::other("this is for ragway itself; `ragway ingest` reads files"));
    }
    limit(Resource::AS, memory)?;
    // What a file held must not be left on a disk.
    limit(Resource::CORE, 0)?;
    // One thread reads: it has used no more processor time than this.
    let mut busy = Duration::ZERO;
    while let Some(request) = read_part(&mut stream)? {
        let request: Request = serde_json::from_slice(&request)?;
        let Some(file) = read_part(&mut stream)? else { break };
        let started = Instant::now();
        limit(Resource::CPU, (busy + time + GRACE).as_secs())?;
        let result = extract(request.name.as_deref(), request.content_type.as_deref(), &file);
        reply(&mut stream, result)?;
        busy += started.elapsed();
    }
    Ok(())
}

/// Lowers the limit that counts; the one up to which it can be raised again stays.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let (_, hard) = resource.get()?;
    resource.set(value.min(hard), hard)
}

fn reply(stream: &mut UnixStream, mut result: Result<Extracted, ExtractError>) -> io::Result<()> {
    // The text goes as it is: as JSON it could be six times as long.
    let text = result.as_mut().map(|extracted| std::mem::take(&mut extracted.text));
    debug_assert!(text.as_ref().is_ok_and(|text| text.len() <= MAX_TEXT) || text.is_err());
    let text = text.unwrap_or_default();
    write_part(stream, &serde_json::to_vec(&result)?)?;
    write_part(stream, text.as_bytes())
}

fn read_part(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut part = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut part)?;
    Ok(Some(part))
}

fn write_part(stream: &mut UnixStream, part: &[u8]) -> io::Result<()> {
    let length = u32::try_from(part.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes())?;
    stream.write_all(part)
}
