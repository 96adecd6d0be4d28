//! A map as a bar in the terminal.

use std::io::IsTerminal;

use crate::cli::colour::Colours;
use crate::error::Result;
use crate::host::terminal_columns;
use crate::ops::{MapKind, OpenMap};
use crate::units::ByteSize;

/// Where there is no terminal.
const COLUMNS: usize = 80;

/// How a kind is drawn, in the order of [`MapKind::ALL`]: its colour, and its letter where there are
/// no colours.
const LOOKS: [(&str, char); 6] =
    [("32", 'd'), ("36", 'c'), ("34", 'b'), ("33", 'l'), ("90", 'z'), ("90", '.')];
/// From little to much of a column.
const SHADES: [char; 4] = ['░', '▒', '▓', '█'];

/// The bar and its legend.
pub(super) fn drawn(map: &OpenMap) -> Result<String> {
    let stdout = std::io::stdout();
    let is_terminal = stdout.is_terminal();
    let columns = terminal_columns().filter(|_| is_terminal).unwrap_or(COLUMNS);
    let picture = map.draw(columns)?;
    let colours = Colours::of(&stdout);
    let range = picture.range();
    let size = range.end - range.start;
    let mut text: String = picture.shares().map(|shares| cell(shares, colours)).collect();
    text.push('\n');
    for (kind, bytes) in picture.totals().filter(|(_, bytes)| *bytes > 0) {
        let percent = bytes as f64 * 100.0 / size.max(1) as f64;
        let sample = look(kind as usize, 1.0, colours);
        let bytes = ByteSize::from_bytes(bytes);
        text.push_str(&format!("{sample} {:<11}  {bytes} ({percent:.1} %)\n", kind.name()));
    }
    Ok(text)
}

/// A column: of what there is most of, unless there is nothing, and how much of it is used.
fn cell(shares: [f64; LOOKS.len()], colours: Colours) -> String {
    let nothing = MapKind::Nothing as usize;
    let used = &shares[..nothing];
    let mut most = 0;
    for (kind, share) in used.iter().enumerate() {
        if *share > used[most] {
            most = kind;
        }
    }
    match used[most] > 0.0 {
        true => look(most, used.iter().sum(), colours),
        false => look(nothing, 0.0, colours),
    }
}

fn look(kind: usize, used: f64, colours: Colours) -> String {
    let (colour, letter) = LOOKS[kind];
    match colours.are_on() {
        true if kind == MapKind::Nothing as usize => colours.paint(colour, '·'),
        true => {
            let shade = SHADES[((used * SHADES.len() as f64) as usize).min(SHADES.len() - 1)];
            colours.paint(colour, shade)
        }
        // More than half of it is used: a capital.
        false if used > 0.5 => letter.to_ascii_uppercase().to_string(),
        false => letter.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_shows_what_there_is_most_of() {
        let (plain, coloured) = (Colours::OFF, Colours::ON);
        assert_eq!(cell([0.1, 0.0, 0.2, 0.0, 0.0, 0.7], plain), "b");
        assert_eq!(cell([0.6, 0.0, 0.2, 0.0, 0.0, 0.2], plain), "D");
        assert_eq!(cell([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], plain), ".");
        assert_eq!(cell([0.0, 1.0, 0.0, 0.0, 0.0, 0.0], coloured), "\x1b[36m█\x1b[0m");
    }
}
