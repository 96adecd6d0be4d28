//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
pub mod gate;
mod open;
mod opened;
mod past_damage;
pub mod probe;

pub use open::OpenOptions;
pub(crate) use opened::Disk;
pub use opened::Image;
pub use past_damage::PastDamage;
