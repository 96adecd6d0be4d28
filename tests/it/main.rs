//! Every promise that is made about the program as a whole, tested on the program as built, with
//! QEMU's own tools as the oracle. One binary, one link.

mod chain;
mod draw;
mod fields;
mod header;
mod matrix;
mod over;
mod payload;
mod refusals;
mod resize;
mod support;
mod tidy;
