//! `vmdisk map`.

mod picture;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::flags::{OutputForm, TrustFlags};
use super::names::{bytes, one_of};
use super::output::{Output, print, print_by};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{Format, MapEntry, MapKind, MapRequest, OpenMap};
use crate::protocol::Reply;
use crate::task::Cancel;
use crate::units::ByteSize;

/// Tell what of a disk is data, zeros or nothing, and where it is
///
/// The list has the file of each run, and its place there. Works while a machine runs, and writes nothing to the disk.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  vmdisk map m.qcow2
  vmdisk map m.qcow2 --picture
  vmdisk map m.qcow2 --svg m.svg
  vmdisk map m.qcow2 --output qemu-json")]
pub(super) struct Args {
    /// The disk
    path: PathBuf,
    /// Its format, where name and content leave a doubt
    #[arg(long, short, value_parser = one_of(Format::ALL, Format::name))]
    format: Option<Format>,
    /// Where on the disk the map begins [default: 0]
    #[arg(long, short, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    start_offset: Option<ByteSize>,
    /// How much of the disk it is about [default: up to the end]
    #[arg(long, short = 'l', value_name = "BYTES", value_parser = bytes,
          allow_hyphen_values = true)]
    max_length: Option<ByteSize>,
    /// Draw a bar, as wide as the terminal, instead of a list
    #[arg(long, conflicts_with_all = ["json", "output"])]
    picture: bool,
    /// Also draw a picture into this file, over an older picture at most; - prints the picture
    /// alone
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the list that qemu-img map --output=json prints
    #[arg(long, value_name = "FORM", value_enum, conflicts_with = "json")]
    output: Option<OutputForm>,
    #[command(flatten)]
    trust: TrustFlags,
}

impl Args {
    /// Whether the picture goes to standard output.
    fn prints_svg(&self) -> bool {
        self.svg.as_deref() == Some(Path::new("-"))
    }

    pub(super) fn run(&self, output: Output, cancel: &Cancel) -> Result<()> {
        if self.prints_svg() && (self.picture || self.output.is_some() || output.is_json()) {
            let message =
                "--svg - prints the picture alone: leave out --picture, --output and --json";
            return Err(Error::new(ErrorKind::IncompatibleOptions, message));
        }
        let request = MapRequest {
            format: self.format,
            start_offset: self.start_offset,
            max_length: self.max_length,
            svg: self.svg.clone().filter(|_| !self.prints_svg()),
            ..MapRequest::new(self.path.clone())
        };
        self.trust.looking(cancel, |context| {
            let map = OpenMap::open(&request, context)?;
            map.publish_picture()?;
            match self.output {
                _ if self.prints_svg() => print(&map.svg()?),
                _ if self.picture => print(&picture::drawn(&map)?),
                Some(OutputForm::QemuJson) => {
                    Streamed::print(map.sector_entries(), |entries, out| {
                        let mut between = "[";
                        for entry in entries.iter() {
                            out.write_all(between.as_bytes())?;
                            serde_json::to_writer(&mut *out, &entry)?;
                            between = ",\n";
                        }
                        out.write_all(match (entries.has_failed(), between) {
                            (true, _) => b"\n",
                            (false, "[") => b"[]\n",
                            (false, _) => b"]\n",
                        })
                    })
                }
                None if output.is_json() => Streamed::print(map.entries(), |entries, out| {
                    serde_json::to_writer(&mut *out, &Reply::new(map.report(entries)))?;
                    out.write_all(b"\n")
                }),
                None => Streamed::print(map.entries(), |entries, out| list(&map, entries, out)),
            }
        })
    }
}

/// The entries of a map, written one by one as they are found: there may be millions.
struct Streamed<'a> {
    entries: RefCell<Box<dyn Iterator<Item = Result<MapEntry>> + 'a>>,
    /// What ended them before their time.
    failed: Cell<Option<Error>>,
}

impl<'a> Streamed<'a> {
    /// Lets `write` print the entries of a map. Where the map cannot be read to its end, what was
    /// printed ends in its midst, and the error is told.
    fn print(
        entries: impl Iterator<Item = Result<MapEntry>> + 'a,
        write: impl FnOnce(&Self, &mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let entries = RefCell::new(Box::new(entries) as Box<_>);
        let streamed = Streamed { entries, failed: Cell::new(None) };
        let printed = print_by(|out| {
            write(&streamed, &mut *out)?;
            Ok(())
        });
        match streamed.failed.take() {
            Some(error) => Err(error),
            None => printed,
        }
    }

    fn iter(&self) -> impl Iterator<Item = MapEntry> + '_ {
        std::iter::from_fn(|| match self.entries.borrow_mut().next()? {
            Ok(entry) => Some(entry),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        })
    }

    fn has_failed(&self) -> bool {
        let failed = self.failed.take();
        let has_failed = failed.is_some();
        self.failed.set(failed);
        has_failed
    }
}

impl Serialize for &Streamed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let done = serializer.collect_seq(self.iter())?;
        match self.has_failed() {
            true => Err(serde::ser::Error::custom("the map ends here")),
            false => Ok(done),
        }
    }
}

fn list(map: &OpenMap, entries: &Streamed<'_>, out: &mut dyn Write) -> io::Result<()> {
    let width = map.size().to_string().len().max("length".len());
    writeln!(
        out,
        "{:>width$}  {:>width$}  {:<11}  {:>width$}  file",
        "start", "length", "what", "at"
    )?;
    for entry in entries.iter() {
        let MapEntry { start, length, offset, .. } = entry;
        let what = MapKind::of(&entry).name();
        write!(out, "{start:>width$}  {length:>width$}  {what:<11}")?;
        let at = offset.map(|offset| offset.to_string());
        match (at, map.file_of(&entry)) {
            (Some(at), Some(file)) => writeln!(out, "  {at:>width$}  {file}")?,
            (None, Some(file)) => writeln!(out, "  {:>width$}  {file}", "")?,
            (_, None) => writeln!(out)?,
        }
    }
    Ok(())
}
