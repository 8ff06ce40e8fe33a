//! Texts of documents, sealed where there is a key.
//!
//! A row of the database is plain or sealed, as `sealed_by` says, and both stand side by side: what was stored
//! before there was a key, and what is sealed with a key that another has replaced. Reading takes either;
//! writing seals with the first key. [`rekey`] brings all rows into the state that writing would give them.

mod keyring;
mod keys;
mod passages;
mod rekey;
mod rows;

pub use keyring::SealError;
pub(super) use keyring::{Keyring, OVERHEAD};
pub(super) use keys::is_retired;
pub(super) use passages::{PassageText, insert_passage_texts};
pub use rekey::{Rekeyed, RetiredKeys, SealedTable};
pub(super) use rows::{
    ANSWER, ANSWER_COMMENT, ANSWER_QUESTION, DOCUMENT_CONTENT, DOCUMENT_IMAGE, JOB_PAYLOAD, JOB_RESULT,
    PASSAGE_CONTENT, PASSAGE_HASH, PASSAGE_HEADING, STEP_OUTCOME, Seals, Text,
};
