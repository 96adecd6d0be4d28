//! hyperkit's reader, the OCaml library mirage/ocaml-qcow (0.11.0, the one that hyperkit is built
//! with): what of an image it does not take or takes otherwise, and what it leaves behind.

mod leftovers;
mod rules;

pub use rules::{BrokenRule, Effect, Rule, broken_rules};

pub(super) use leftovers::{Leftovers, find_leftovers};
