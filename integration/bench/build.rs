//! Compiles the programs that vmdisk is compared with: `cargo run` builds one binary only, and one
//! of them is wanted in two forms.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=programs");
    build("FLOOR", "floor", &[]);
    build("START", "start", &[]);
    build("START_STATIC", "start", &["-C", "target-feature=+crt-static"]);
}

/// Compiles `programs/{source}.rs`; its path, or nothing where that fails, becomes the environment
/// variable `variable` of the benchmark's own compilation.
fn build(variable: &str, source: &str, flags: &[&str]) {
    let folder = env::var_os("OUT_DIR").expect("cargo sets it");
    let program = Path::new(&folder).join(variable.to_lowercase());
    let done = Command::new(env::var_os("RUSTC").expect("cargo sets it"))
        .args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(format!("programs/{source}.rs"))
        .status();
    let path = match done {
        Ok(status) if status.success() => program.display().to_string(),
        _ => {
            println!("cargo::warning={variable} could not be built: it will not be measured");
            String::new()
        }
    };
    println!("cargo::rustc-env={variable}={path}");
}
