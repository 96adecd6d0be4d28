//! The serialised forms of what requests and reports are made of: every choice is a name, every
//! path is text, every size names its unit or is in bytes.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteSize;

/// Declares a choice whose values have names: the same names on the command line, in JSON and in
/// messages.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema,
        )]
        pub enum $name { $($(#[$value_doc])* #[serde(rename = $text)] $value),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [$name] = &[$($name::$value),+];

            /// The value's name.
            pub fn name(self) -> &'static str {
                match self { $($name::$value => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        // (What serde derives would take `{"name": null}` as well.)
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::error::Error;

            fn from_str(text: &str) -> crate::error::Result<Self> {
                $name::ALL.iter().copied().find(|value| value.name() == text).ok_or_else(|| {
                    let names: Vec<_> = $name::ALL.iter().map(|value| value.name()).collect();
                    let message = format!("'{text}' is none of {}", names.join(", "));
                    crate::error::Error::new(crate::error::ErrorKind::BadRequest, message)
                })
            }
        }
    };
}

pub(super) use choice;

/// A path as text; what is not UTF-8 in it is replaced.
pub(crate) fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A name that is stored in an image, as text: what is not printable in it is escaped, because
/// whoever made the image is not trusted with a terminal.
pub(super) fn stored_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The bytes of a path that is not UTF-8, in hexadecimal.
pub(crate) fn bytes_hex(path: &Path) -> Option<String> {
    let bytes = path.as_os_str().as_bytes();
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    path.to_str().is_none().then(hex)
}

/// How a size is written in a request, for the schema.
pub(super) struct Size;

/// The `format` of a size in a schema. What is wrong with a value in such a place is a bad size.
pub(crate) const SIZE_FORMAT: &str = "byte-size";

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes, or a string with a number and its unit: K M G T P E \
                            or KiB MiB … are powers of 1024, KB MB … powers of ten, B is bytes.",
            "format": SIZE_FORMAT,
            "oneOf": [
                { "type": "integer", "minimum": 0, "maximum": u64::MAX },
                {
                    "type": "string",
                    "pattern": "^([0-9]+([bB]|[kKmMgGtTpPeE]([iI]?[bB])?)|[0-9]+\\.[0-9]+[kKmMgGtTpPeE]([iI]?[bB])?)$"
                },
            ],
        })
    }
}

/// How a number of MiB is written in a request, for the schema.
pub(super) struct Mebibytes;

impl JsonSchema for Mebibytes {
    fn schema_name() -> Cow<'static, str> {
        "Mebibytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of MiB.",
            "type": "integer",
            "minimum": 0,
            "format": SIZE_FORMAT,
        })
    }
}

/// Sizes in requests.
pub(super) mod size {
    use std::fmt;

    use serde::Deserializer;
    use serde::de::{Error, Unexpected, Visitor};

    use crate::units::ByteSize;

    /// An integer of bytes, a string with its unit, or nothing.
    pub(in crate::ops) fn optional<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: From<ByteSize>,
        D: Deserializer<'de>,
    {
        deserializer.deserialize_any(Size).map(|size| size.map(T::from))
    }

    struct Size;

    impl Visitor<'_> for Size {
        type Value = Option<ByteSize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(
                "a whole number of bytes below 2^64, or a string with a unit such as \"20GiB\"",
            )
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_u64<E: Error>(self, bytes: u64) -> Result<Self::Value, E> {
            Ok(Some(ByteSize::from_bytes(bytes)))
        }

        fn visit_i64<E: Error>(self, bytes: i64) -> Result<Self::Value, E> {
            let unexpected = Unexpected::Signed(bytes);
            let size = u64::try_from(bytes).map_err(|_| E::invalid_value(unexpected, &self))?;
            self.visit_u64(size)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            ByteSize::parse_with_unit(text).map(Some).map_err(E::custom)
        }
    }
}

/// Structures inside of requests: an object of named fields. (What serde derives would take a list
/// of values as well, in the order of their declaration.)
pub(super) mod object {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::value::MapAccessDeserializer;
    use serde::de::{MapAccess, Visitor};
    use serde::{Deserialize, Deserializer};

    /// An object.
    pub(in crate::ops) fn required<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Object::deserialize(deserializer).map(|Object(value)| value)
    }

    /// An object, or nothing.
    pub(in crate::ops) fn optional<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let object = Option::<Object<T>>::deserialize(deserializer)?;
        Ok(object.map(|Object(value)| value))
    }

    struct Object<T>(T);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Fields(PhantomData)).map(Object)
        }
    }

    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(fields))
        }
    }
}

/// How permission bits are written in a request, for the schema.
pub(super) struct Mode;

impl JsonSchema for Mode {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Permission bits in octal, such as 0600.",
            "type": "string",
            "pattern": "^0*[0-7]{1,3}$",
        })
    }
}

/// Permission bits in octal.
///
/// # Errors
/// [`ErrorKind::BadRequest`] for anything but up to nine permission bits.
pub(crate) fn parse_mode(text: &str) -> Result<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
    mode.ok_or_else(|| {
        let message = format!("'{text}' is no mode: write octal permission bits such as 0600");
        Error::new(ErrorKind::BadRequest, message)
    })
}

/// Permission bits in requests.
pub(super) mod mode {
    use serde::{Deserialize, Deserializer, de};

    /// A string of octal digits, or nothing.
    pub(in crate::ops) fn optional<'de, D>(deserializer: D) -> Result<Option<u32>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_mode(&text).map_err(de::Error::custom)).transpose()
    }
}

/// The one size that is asked for, of the two ways to say it.
///
/// # Errors
/// [`ErrorKind::IncompatibleOptions`] for both at once, [`ErrorKind::BadSize`] for too many MiB.
pub(super) fn one_size<T: From<ByteSize>>(
    size: Option<T>,
    docker_machine_mb: Option<u64>,
) -> Result<Option<T>> {
    match (size, docker_machine_mb) {
        (Some(_), Some(_)) => {
            let message = "size and docker_machine_mb exclude each other";
            let error = Error::new(ErrorKind::IncompatibleOptions, message);
            Err(error.in_field("docker_machine_mb"))
        }
        (None, Some(mib)) => {
            let size = ByteSize::from_docker_machine_mb(mib);
            let size = size.map_err(|error| error.in_field("docker_machine_mb"))?;
            Ok(Some(size.into()))
        }
        (size, None) => Ok(size),
    }
}
