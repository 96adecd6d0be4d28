//! The methods: every verb, and what the protocol itself offers.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::envelope::{Params, Request};
use super::error::{Code, Fault};
use super::params::{Call, CallOptions, check_protocol};
use super::progress::ProgressLines;
use super::reply::Reply;
use super::shape::published;
use super::unknown::{message, nearest};
use crate::error::{Error, ErrorKind, guarded};
use crate::ops::{Context, Verb, Visitor, as_named, each_verb};
use crate::task::{Cancel, Progress, Silent};

/// `cancel`, which is no method but a notification.
pub(super) const CANCEL: &str = "cancel";
/// The method that describes all others, as OpenRPC names it.
pub(super) const DISCOVER: &str = "rpc.discover";

/// What a method's call is surrounded by.
pub(super) struct Surroundings<'a> {
    pub(super) cancel: &'a Cancel,
    /// Sends a line to the client.
    pub(super) send: &'a (dyn Fn(&str) + Send + Sync),
}

type Outcome = Result<Box<RawValue>, Fault>;
/// Does what a method is for.
pub(super) type Run = fn(Request, &Surroundings<'_>) -> Outcome;

/// Every method.
pub(super) struct Methods(Vec<Method>);

struct Method {
    name: &'static str,
    run: Run,
    /// Whether it may wait for a lock, or has much to do.
    can_be_long: bool,
}

impl Methods {
    /// All that this program has.
    pub(super) fn all() -> Self {
        let discover = Method { name: DISCOVER, run: discover, can_be_long: false };
        let mut methods = Methods(vec![discover]);
        each_verb(&mut methods);
        methods
    }

    /// One more, that tests need and this program does not have.
    #[cfg(test)]
    pub(super) fn and(mut self, name: &'static str, run: Run) -> Self {
        self.0.push(Method { name, run, can_be_long: true });
        self
    }

    /// Calls the method that is asked for. A panic in it becomes an error.
    pub(super) fn call(&self, request: Request, around: &Surroundings<'_>) -> Outcome {
        let Some(method) = self.find(&request.method) else {
            check_protocol(&request.params.read()?)?;
            return Err(self.not_found(&request.method));
        };
        around.cancel.check()?;
        guarded(|| (method.run)(request, around))
    }

    /// Whether somebody may want to cancel this method's work.
    pub(super) fn can_be_long(&self, name: &str) -> bool {
        self.find(name).is_some_and(|method| method.can_be_long)
    }

    fn find(&self, name: &str) -> Option<&Method> {
        self.0.iter().find(|method| method.name == name)
    }

    fn not_found(&self, name: &str) -> Fault {
        if name == CANCEL {
            let why = "cancel is a notification: send it without an id";
            return Fault::new(Code::InvalidRequest, why);
        }
        let nearest = nearest(name, self.0.iter().map(|method| method.name));
        Fault::new(Code::MethodNotFound, message("method", name, nearest.as_deref()))
    }
}

impl Visitor for Methods {
    fn visit<V: Verb>(&mut self) {
        // What takes no lock only looks.
        self.0.push(Method { name: V::NAME, run: verb::<V>, can_be_long: V::LOCKS });
    }
}

/// Every verb, understood and not done: what is fuzzed reaches no file.
#[cfg(any(test, fuzzing))]
pub(super) struct Understood(Methods);

#[cfg(any(test, fuzzing))]
impl Understood {
    pub(super) fn all() -> Methods {
        let discover = Method { name: DISCOVER, run: discover, can_be_long: false };
        let mut understood = Understood(Methods(vec![discover]));
        each_verb(&mut understood);
        understood.0
    }
}

#[cfg(any(test, fuzzing))]
impl Visitor for Understood {
    fn visit<V: Verb>(&mut self) {
        let run: Run = |request, _| {
            let call = Call::<V>::read(request.params.read()?)?;
            call.trust.policy()?;
            call.locks.policy()?;
            raw(&V::NAME)
        };
        self.0.0.push(Method { name: V::NAME, run, can_be_long: V::LOCKS });
    }
}

fn verb<V: Verb>(request: Request, around: &Surroundings<'_>) -> Outcome {
    let Request { id, params, .. } = request;
    let call = Call::<V>::read(params.read()?)?;
    let (trust, locks) = (call.trust.policy()?, call.locks.policy()?);
    let progress: &dyn Progress = match call.options.progress {
        true => &ProgressLines::for_request(id, around.send),
        false => &Silent,
    };
    let context = Context { progress, cancel: around.cancel, trust: &trust, locks: &locks };
    let report = V::run(&call.request, context).map_err(|error| as_asked(error, &params))?;
    raw(&Reply::new(report))
}

/// The error about the file as the request names it.
fn as_asked(error: Error, params: &Params) -> Error {
    let texts = params.read().unwrap_or_default();
    let mut names = Vec::new();
    texts.values().for_each(|value| each_text(value, &mut names));
    as_named(error, names)
}

fn each_text<'a>(value: &'a Value, names: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => names.push(text),
        Value::Array(values) => values.iter().for_each(|value| each_text(value, names)),
        Value::Object(fields) => fields.values().for_each(|value| each_text(value, names)),
        _ => {}
    }
}

fn discover(request: Request, _: &Surroundings<'_>) -> Outcome {
    CallOptions::read_all(request.params.read()?)?;
    raw(published())
}

fn raw(value: &impl Serialize) -> Outcome {
    Ok(to_raw_value(value).map_err(broken)?)
}

fn broken(error: serde_json::Error) -> Error {
    let message = "the result cannot be written as JSON";
    Error::new(ErrorKind::Internal, message).after_changes().with_source(error)
}
