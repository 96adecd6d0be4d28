//! Lines of a client.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmdisk_fuzz::lines(bytes));
