//! Colours, where a terminal has them and nobody minds.

use std::fmt::Display;
use std::io::IsTerminal;

/// What went wrong.
pub(super) const BAD: &str = "1;31";
/// What may be wrong.
pub(super) const DOUBTFUL: &str = "33";
/// What is as it should be.
pub(super) const GOOD: &str = "32";
/// What is said beside.
pub(super) const ASIDE: &str = "36";

/// Whether what goes to a stream has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colours(bool);

#[cfg(test)]
impl Colours {
    pub(super) const ON: Colours = Colours(true);
    pub(super) const OFF: Colours = Colours(false);
}

impl Colours {
    /// Those of a stream: none where it is no terminal or a dumb one, and none with `NO_COLOR`.
    pub(super) fn of(stream: &impl IsTerminal) -> Colours {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Colours(!unwanted && understands_escapes(stream))
    }

    /// Whether there are any.
    pub(super) fn are_on(self) -> bool {
        self.0
    }

    /// The text in the colour that this parameter of `ESC [ m` stands for.
    pub(super) fn paint(self, colour: &str, text: impl Display) -> String {
        match self.0 {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }
}

/// Whether a stream is a terminal on which more can be done than writing.
pub(super) fn understands_escapes(stream: &impl IsTerminal) -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    !is_dumb && stream.is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plain_is_left_as_it_is() {
        assert_eq!(Colours(false).paint(BAD, "lost"), "lost");
        assert_eq!(Colours(true).paint(BAD, "lost"), "\x1b[1;31mlost\x1b[0m");
    }
}
