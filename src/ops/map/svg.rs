//! A picture as SVG.

use std::fmt::Write;
use std::path::Path;

use super::OpenMap;
use super::picture::Picture;
use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::Storage;
use crate::host::{Access, FileId, FileStorage, Staging, resolve_target};
use crate::ops::place::{Place, exists, is_taken};
use crate::units::ByteSize;

/// The columns of a picture; each is two pixels wide.
pub(super) const COLUMNS: usize = 460;

const BEGIN: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\"";
const STYLE: &str = "<style>
svg{color-scheme:light dark;font:13px system-ui,sans-serif}
.paper{fill:#fff}.text{fill:#1f2328}.faint{fill:#59636e}.frame{fill:none;stroke:#8c959f}
.k0{fill:#1a7f37}.k1{fill:#0969da}.k2{fill:#8250df}.k3{fill:#bf8700}.k4{fill:#8c959f}.k5{fill:#eaeef2}
@media (prefers-color-scheme:dark){
.paper{fill:#0d1117}.text{fill:#e6edf3}.faint{fill:#9198a1}.frame{stroke:#656c76}
.k0{fill:#3fb950}.k1{fill:#58a6ff}.k2{fill:#a371f7}.k3{fill:#d29922}.k4{fill:#656c76}.k5{fill:#21262d}}
</style>
";
const LEFT: usize = 20;
const TOP: usize = 48;
const HEIGHT: f64 = 80.0;
const WIDTH: usize = 2 * COLUMNS;

/// Puts the picture of a map at `path`, whole and synced: where there is nothing, or another picture.
pub(super) fn publish(path: &Path, map: &OpenMap) -> Result<()> {
    let target = resolve_target(path)?;
    let replaced = match is_taken(path, &target)? {
        true => Some(picture_at(path, &target, map)?),
        false => None,
    };
    let place = Place::of(&target, replaced.as_ref(), Some(0o644), None)?;
    let staging = Staging::begin(&target, place.mode, place.owner)?;
    staging.storage().write_at(0, map.svg()?.as_bytes())?;
    map.cancel.check()?;
    staging.publish(place.publish)
}

impl Picture {
    /// The picture of a disk with this name.
    pub(super) fn svg(&self, name: &str) -> String {
        let name = escaped(name);
        let totals: Vec<_> = self.totals().filter(|(_, bytes)| *bytes > 0).collect();
        let size = ByteSize::from_bytes(self.range().end - self.range().start);
        let told = totals.iter().map(|(kind, bytes)| format!("{kind} {}", share(*bytes, size)));
        let told: Vec<_> = told.collect();
        let (width, height) = (WIDTH + 2 * LEFT, 204);
        let mut out = format!(
            "{BEGIN} width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             role=\"img\" aria-labelledby=\"title desc\">\n\
             <title id=\"title\">Allocation of {name}</title>\n\
             <desc id=\"desc\">{size} of the disk, from its beginning to its end: {}.</desc>\n\
             {STYLE}<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n\
             <text class=\"text\" x=\"{LEFT}\" y=\"32\" font-size=\"16\">{name}</text>\n",
            told.join(", ")
        );
        self.bar(&mut out);
        let below = TOP + HEIGHT as usize;
        let (from, to) = (self.range().start, self.range().end);
        let ends = [(LEFT, "start", from), (LEFT + WIDTH, "end", to)];
        for (x, anchor, at) in ends {
            let at = ByteSize::from_bytes(at);
            line(
                &mut out,
                format_args!(
                    "<text class=\"faint\" x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{at}</text>",
                    below + 18
                ),
            );
        }
        for (place, (kind, bytes)) in totals.iter().enumerate() {
            let (x, y) = (LEFT + place % 3 * (WIDTH / 3), below + 48 + place / 3 * 24);
            let class = *kind as usize;
            line(
                &mut out,
                format_args!(
                    "<rect class=\"k{class}\" x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"2\"/>\
                 <text class=\"text\" x=\"{}\" y=\"{y}\">{kind} {}</text>",
                    y - 11,
                    x + 20,
                    share(*bytes, size)
                ),
            );
        }
        out.push_str("</svg>\n");
        out
    }

    /// The columns, neighbours that are alike as one, what is used from the bottom up.
    fn bar(&self, out: &mut String) {
        let shares: Vec<_> = self.shares().collect();
        let mut x = LEFT;
        for alike in shares.chunk_by(|a, b| a == b) {
            let width = 2 * alike.len();
            let mut y = TOP as f64 + HEIGHT;
            for (class, part) in alike[0].iter().enumerate().filter(|(_, part)| **part > 0.0) {
                let height = part * HEIGHT;
                y -= height;
                line(
                    out,
                    format_args!(
                        "<rect class=\"k{class}\" x=\"{x}\" y=\"{y:.2}\" width=\"{width}\" \
                     height=\"{height:.2}\"/>"
                    ),
                );
            }
            x += width;
        }
        line(
            out,
            format_args!(
                "<rect class=\"frame\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>"
            ),
        );
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{text}");
}

fn share(bytes: u64, all: ByteSize) -> String {
    let percent = bytes as f64 * 100.0 / all.bytes().max(1) as f64;
    format!("{} ({percent:.1} %)", ByteSize::from_bytes(bytes))
}

/// The picture that is there already.
fn picture_at(path: &Path, target: &Path, map: &OpenMap) -> Result<FileStorage> {
    if map.files.contains(&FileId::of(target)?) {
        let message = "is a file of the disk: name another one for the picture";
        return Err(Error::new(ErrorKind::BadRequest, message).at_path(path).in_field("svg"));
    }
    let old = FileStorage::open(target, Access::Read)?;
    let mut begin = [0; BEGIN.len()];
    let found = old.read_at(0, &mut begin)?;
    match &begin[..found] == BEGIN.as_bytes() {
        true => Ok(old),
        false => Err(exists(path)),
    }
}

/// Text as XML has it; what it cannot have is replaced.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            character if character.is_control() => out.push('\u{fffd}'),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::MapKind;

    #[test]
    fn names_cannot_leave_their_place() {
        let picture = Picture::new(0..1000, COLUMNS);
        let svg = picture.svg("</title><script>&\u{0}\"");
        assert!(
            svg.contains("Allocation of &lt;/title&gt;&lt;script&gt;&amp;\u{fffd}&quot;</title>")
        );
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
        assert_eq!(MapKind::ALL.len(), 6, "a colour each");
    }
}
