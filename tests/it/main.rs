//! Every promise that is made about the program as a whole, tested on the program as built, with
//! QEMU's own tools as the oracle. One binary, one link.

mod atomic;
mod battery;
mod chain;
mod check;
mod damaged;
mod datapath;
mod dependents;
mod draw;
mod ensure;
mod ext4;
mod fields;
mod fixtures;
mod growth;
mod header;
mod help;
mod hyperkit;
mod inspect;
#[cfg(target_os = "linux")]
mod interrupted;
mod journal;
mod lived_in;
mod locks;
mod map;
mod matrix;
mod over;
mod pack;
mod partitions;
mod payload;
mod rebuild;
mod reference;
mod refusals;
mod resize;
mod room;
mod rpc;
mod salvage;
mod scan;
mod support;
mod tidy;
mod unresizable;
