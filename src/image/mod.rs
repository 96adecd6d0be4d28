//! An image of either format: what it is, what it may make us open, and the chain below it.

pub mod chain;
mod change;
pub mod commit;
mod compare;
pub mod copy;
mod dependents;
pub mod gate;
mod hash;
mod in_order;
pub mod journal;
mod map;
mod open;
mod opened;
mod past_damage;
pub mod probe;
mod rebase;
mod reclaim;
mod snapshots;

pub use change::{Change, Changed};
pub use compare::{Comparison, compare, compare_allocation};
pub use dependents::{
    Dependent, Dependents, find_dependents, refuse_dependents, refuse_dependents_beside,
    refuse_dependents_of,
};
pub use hash::{ContentHash, hash};
pub use map::{ChainMap, MapRun, OwnBytes, own_bytes};
pub use open::OpenOptions;
pub use opened::Image;
pub use past_damage::PastDamage;
pub use reclaim::{GivenUp, Reclaimer, Zeros};
