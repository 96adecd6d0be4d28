//! The least that could do: writes the same bytes to the same places in large writes, without
//! computing or checking anything, and makes them last as vmdisk must.
//!
//! `floor create FILE LENGTH OFFSET:BYTES...` makes a file of that length beside `FILE`, fills the
//! ranges, syncs, renames it to `FILE` and syncs the folder. `floor grow FILE LENGTH
//! OFFSET:BYTES...` does the same to the existing `FILE`, which gets the name `FILE.grown`.

use std::env::args;
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Error};
use std::os::unix::fs::FileExt;

/// Bytes a write.
const BUFFER: usize = 1 << 20;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [verb, file, length, ranges @ ..] = arguments.as_slice() else {
        return Err(Error::other("usage: floor create|grow FILE LENGTH OFFSET:BYTES..."));
    };
    let (from, to, fresh) = match verb.as_str() {
        "create" => (format!("{file}.new"), file.clone(), true),
        "grow" => (file.clone(), format!("{file}.grown"), false),
        _ => return Err(Error::other("neither create nor grow")),
    };
    let storage = OpenOptions::new().write(true).create_new(fresh).open(&from)?;
    storage.set_len(number(length)?)?;
    let buffer = vec![0xa5; BUFFER];
    for range in ranges {
        let (offset, bytes) = range.split_once(':').ok_or(Error::other("no OFFSET:BYTES"))?;
        fill(&storage, number(offset)?, number(bytes)?, &buffer)?;
    }
    storage.sync_data()?;
    rename(from, to)?;
    File::open(".")?.sync_all()
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(Error::other)
}

fn fill(storage: &File, mut offset: u64, mut left: u64, buffer: &[u8]) -> io::Result<()> {
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        storage.write_all_at(&buffer[..piece], offset)?;
        offset += piece as u64;
        left -= piece as u64;
    }
    Ok(())
}
