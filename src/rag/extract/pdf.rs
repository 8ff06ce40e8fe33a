use super::*;
pub(super) fn extract(_: &[u8]) -> Result<Extracted, ExtractError> { Err(ExtractError::NoTextLayer) }
