//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
mod change;
mod dependents;
pub mod gate;
pub mod journal;
mod map;
mod open;
mod opened;
mod past_damage;
pub mod probe;

pub use change::{Change, Changed};
pub use dependents::{
    Dependent, Dependents, find_dependents, refuse_dependents, refuse_dependents_beside,
};
pub use map::{ChainMap, MapRun, OwnBytes, own_bytes};
pub use open::OpenOptions;
pub use opened::Image;
pub use past_damage::PastDamage;
