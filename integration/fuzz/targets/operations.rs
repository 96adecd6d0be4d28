//! What is done to a sound image.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmdisk_fuzz::operations(bytes));
