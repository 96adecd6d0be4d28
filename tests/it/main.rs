//! Every promise that is made about the program as a whole, tested on the program as built, with
//! QEMU's own tools as the oracle. One binary, one link.

mod atomic;
mod battery;
mod ensure;
mod help;
#[cfg(target_os = "linux")]
mod locks;
mod refusals;
mod support;
mod tidy;
