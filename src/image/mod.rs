//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
mod change;
mod dependents;
pub mod gate;
pub mod journal;
mod open;
mod opened;
mod past_damage;
pub mod probe;
mod snapshots;

pub use change::{Change, Changed};
pub use dependents::refuse_dependents;
pub use open::OpenOptions;
pub use opened::Image;
pub use past_damage::PastDamage;
