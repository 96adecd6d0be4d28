//! Repairs of a damaged image.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmdisk_fuzz::repair(bytes));
