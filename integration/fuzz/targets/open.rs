//! What a stranger's file is told to be.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmdisk_fuzz::open(bytes));
