//! What several fuzz targets need: decisions read from the fuzzer's bytes, and harm done to a disk by them.

pub mod harm;
pub mod input;
