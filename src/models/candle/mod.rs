//! In-process models on candle.

pub mod bert;
