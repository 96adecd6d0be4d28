//! Keys, archives and the beginnings of disks.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmdisk_fuzz::payload(bytes));
