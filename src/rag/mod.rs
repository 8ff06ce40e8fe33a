//! Use cases: embed, search, ask, ingest.
//!
//! Absent here: HTTP, SQL, names of vendors.

pub mod chunk;
pub mod extract;
pub mod sentences;
