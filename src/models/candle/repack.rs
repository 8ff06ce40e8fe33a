//! Re-quantises at load what candle computes slowly.

use std::io::{Cursor, Read, Seek};

use candle_core::{
    Device, Result,
    quantized::{GgmlDType, QTensor, gguf_file::Content},
};

/// Where the tensors of a GGUF file are read from.
pub trait TensorSource: Read + Seek {}
impl<T: Read + Seek> TensorSource for T {}

/// Rewrites `Q4_1`, `Q5_0` and `Q5_1` tensors as `Q8_0`; the file's metadata stays.
///
/// candle 0.11 multiplies with these three types element by element, while
/// `Q8_0` has SIMD kernels. Eight bits hold what four or five did up to a
/// rounding of 1/254 of a block's largest value. The rewritten tensors lie in
/// memory one after the other; a file without such types is read from
/// `source` itself.
pub fn repack<'a>(
    mut content: Content,
    mut source: impl TensorSource + 'a,
) -> Result<(Content, Box<dyn TensorSource + 'a>)> {
    if !content.tensor_infos.values().any(|info| is_slow(info.ggml_dtype)) {
        return Ok((content, Box::new(source)));
    }
    let mut body = Vec::new();
    for info in content.tensor_infos.values_mut() {
        let mut tensor = info.read(&mut source, content.tensor_data_offset, &Device::Cpu)?;
        if is_slow(info.ggml_dtype) {
            tensor = QTensor::quantize(&tensor.dequantize(&Device::Cpu)?, GgmlDType::Q8_0)?;
        }
        info.ggml_dtype = tensor.dtype();
        info.offset = body.len() as u64;
        body.extend_from_slice(&tensor.data()?);
    }
    content.tensor_data_offset = 0;
    Ok((content, Box::new(Cursor::new(body))))
}

fn is_slow(dtype: GgmlDType) -> bool {
    matches!(dtype, GgmlDType::Q4_1 | GgmlDType::Q5_0 | GgmlDType::Q5_1)
}

#[cfg(test)]
mod tests {
    use candle_core::{Tensor, quantized::gguf_file};

    use super::*;

    fn file(dtype: GgmlDType) -> (Tensor, Vec<u8>) {
        let values: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
        let weights = Tensor::from_vec(values, (8, 64), &Device::Cpu).unwrap();
        let slow = QTensor::quantize(&weights, dtype).unwrap();
        let norm = QTensor::quantize(&weights, GgmlDType::F32).unwrap();
        let mut bytes = Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &[], &[("a", &slow), ("b", &norm)]).unwrap();
        (slow.dequantize(&Device::Cpu).unwrap(), bytes.into_inner())
    }

    #[test]
    fn slow_types_become_q8_0_with_nearly_the_same_values() {
        for dtype in [GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1] {
            let (before, bytes) = file(dtype);
            let mut source = Cursor::new(bytes);
            let content = Content::read(&mut source).unwrap();
            let (content, mut source) = repack(content, source).unwrap();

            let after = content.tensor(&mut source, "a", &Device::Cpu).unwrap();
            assert_eq!(after.dtype(), GgmlDType::Q8_0);
            let after = after.dequantize(&Device::Cpu).unwrap();
            let off = (after - before).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1.1 / 127.0, "{dtype:?}: {off}");
            let untouched = content.tensor(&mut source, "b", &Device::Cpu).unwrap();
            assert_eq!(untouched.dtype(), GgmlDType::F32);
        }
    }

    #[test]
    fn a_file_of_fast_types_is_left_as_it_is() {
        let (before, bytes) = file(GgmlDType::Q8_0);
        let mut source = Cursor::new(bytes);
        let content = Content::read(&mut source).unwrap();
        let offset = content.tensor_data_offset;
        let (content, mut source) = repack(content, source).unwrap();

        assert_eq!(content.tensor_data_offset, offset);
        let after = content.tensor(&mut source, "a", &Device::Cpu).unwrap();
        let after = after.dequantize(&Device::Cpu).unwrap();
        assert_eq!(after.to_vec2::<f32>().unwrap(), before.to_vec2::<f32>().unwrap());
    }
}
