//! Every promise that is made about the program as a whole, tested on the program as built, with
//! QEMU's own tools as the oracle. One binary, one link.

mod draw;
mod header;
mod matrix;
mod payload;
mod resize;
mod support;
mod tidy;
