//! The `vmdisk` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmdisk::cli::run(std::env::args_os()).into()
}
