//! Internal snapshots: read, listed, made, applied and deleted, each in turn with QEMU's tools.

mod both_ways;
mod by_hand;
mod refusals;
mod view;
