//! Reading and writing through the library, with QEMU's tools as the oracle: what is written here
//! is read there, and the other way round.

mod both_ways;
mod copied;
mod damaged;
mod disk;
mod errors;
mod external;
mod features;
mod flush;
mod huge;
mod locks;
mod raw;
mod refusals;
mod resized;
mod threads;
