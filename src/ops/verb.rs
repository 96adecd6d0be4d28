//! What a verb is, and the list of them: whoever serves verbs (the protocol, its schema,
//! `capabilities`) walks this list, so that a verb is added here and nowhere else.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Capabilities, Context, Create, Ensure, Info, Resize};
use crate::error::Result;

/// A verb: a request in, a report out.
pub trait Verb {
    /// Its name, in the library, on the command line and in the protocol.
    const NAME: &'static str;
    /// What it does, in a sentence.
    const SUMMARY: &'static str;
    /// Whether it may open files that images name, and so heeds
    /// [`TrustOptions`](super::TrustOptions).
    const OPENS: bool;
    /// Whether it locks disks, and so heeds [`LockOptions`](super::LockOptions).
    const LOCKS: bool;
    /// What is asked.
    type Request: DeserializeOwned + JsonSchema;
    /// What is answered.
    type Report: Serialize + JsonSchema;

    /// Does it.
    ///
    /// # Errors
    /// As the function of the same name says.
    fn run(request: &Self::Request, context: Context<'_>) -> Result<Self::Report>;
}

/// Is shown every verb.
pub trait Visitor {
    /// This is one.
    fn visit<V: Verb>(&mut self);
}

/// Shows every verb to `visitor`.
pub fn each_verb(visitor: &mut impl Visitor) {
    visitor.visit::<Create>();
    visitor.visit::<Ensure>();
    visitor.visit::<Resize>();
    visitor.visit::<Info>();
    visitor.visit::<Capabilities>();
}
