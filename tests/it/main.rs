//! Every promise that is made about the program as a whole, tested on the program as built, with
//! QEMU's own tools as the oracle. One binary, one link.

mod amend;
mod atomic;
mod battery;
mod bitmap;
mod chain;
mod check;
mod clone;
mod commit;
mod compact;
mod compact_ends;
mod convert;
mod damaged;
mod datapath;
mod dependents;
mod draw;
mod ensure;
mod ext4;
mod fields;
mod fixtures;
mod flatten;
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
mod messages;
#[cfg(target_os = "linux")]
mod mounted;
mod over;
mod pack;
mod partitions;
mod payload;
mod qemu_info;
mod rebase;
mod rebuild;
mod reference;
#[cfg(target_os = "linux")]
mod reflink;
mod refusals;
mod resize;
mod room;
mod rpc;
mod salvage;
mod scan;
mod snapshots;
mod stops;
mod streams;
mod support;
mod tidy;
#[cfg(target_os = "linux")]
mod unfinished;
mod unresizable;
