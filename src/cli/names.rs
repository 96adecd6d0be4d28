//! Named choices and sizes as clap reads them.

use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::error::Error;
use crate::units::ByteSize;

/// A parser that accepts, completes and documents the names of a choice.
pub(super) fn one_of<T>(all: &[T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = Error> + Copy + Send + Sync + 'static,
{
    let names: Vec<&'static str> = all.iter().map(|value| name(*value)).collect();
    PossibleValuesParser::new(names).try_map(|text| text.parse::<T>())
}

/// A size that must name its unit.
pub(super) fn size(text: &str) -> Result<ByteSize, Error> {
    ByteSize::parse_with_unit(text)
}

/// A size in which a bare number means bytes.
pub(super) fn bytes(text: &str) -> Result<ByteSize, Error> {
    ByteSize::parse_bytes(text)
}

/// A number of MiB, which has no unit.
pub(super) fn mebibytes(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is no number of MiB: write it without a unit, such as 20000")
    })
}
