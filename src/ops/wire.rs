//! The serialised forms of what requests and reports are made of: every choice is a name, every
//! path is text.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Declares a choice whose values have names: the same names on the command line, in JSON and in
/// messages.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
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
pub fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The bytes of a path that is not UTF-8, in hexadecimal.
pub fn bytes_hex(path: &Path) -> Option<String> {
    let bytes = path.as_os_str().as_bytes();
    let hex = || bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    path.to_str().is_none().then(hex)
}
