//! Little-endian reading that never leaves the file.

use super::FormatError;

/// A place in the file; every read moves it on and fails where the file ends.
pub struct Reader<'a> {
    file: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a [u8]) -> Self {
        Self { file, position: 0 }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// The next `length` bytes; `what` is named when there are fewer.
    pub fn bytes(&mut self, length: usize, what: &str) -> Result<&'a [u8], FormatError> {
        let rest = self.file.get(self.position..).unwrap_or_default();
        let bytes = rest
            .get(..length)
            .ok_or_else(|| FormatError(format!("it ends within {what}: {length} bytes are not there")))?;
        self.position += length;
        Ok(bytes)
    }

    pub fn u8(&mut self, what: &str) -> Result<u8, FormatError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub fn u16(&mut self, what: &str) -> Result<u16, FormatError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub fn f32(&mut self, what: &str) -> Result<f32, FormatError> {
        Ok(f32::from_le_bytes(self.array(what)?))
    }

    /// A number that the format keeps as `i32`, from 0 to `most`.
    pub fn count(&mut self, most: usize, what: &str) -> Result<usize, FormatError> {
        let number = i32::from_le_bytes(self.array(what)?);
        usize::try_from(number)
            .ok()
            .filter(|number| *number <= most)
            .ok_or_else(|| FormatError(format!("{what} is {number}, which is not between 0 and {most}")))
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N, what)?);
        Ok(array)
    }
}
