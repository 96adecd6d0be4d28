//! Changes of a damaged image's snapshots, bitmaps and kind.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmdisk_fuzz::change(bytes));
