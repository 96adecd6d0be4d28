//! Internal snapshots: read, listed, made, applied and deleted, each in turn with QEMU's tools.

mod view;
