//! The `vmdisk` program.
fn main() {}
