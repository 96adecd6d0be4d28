//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
mod change;
mod compare;
pub mod copy;
mod dependents;
pub mod gate;
mod hash;
mod in_order;
pub mod journal;
mod open;
mod opened;
mod past_damage;
pub mod probe;
mod rebase;

pub use change::{Change, Changed};
pub use compare::{Comparison, compare};
pub use dependents::refuse_dependents;
pub use hash::{ContentHash, hash};
pub use open::OpenOptions;
pub use opened::Image;
pub use past_damage::PastDamage;
