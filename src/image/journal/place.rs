//! Where a journal lies: beside its disk, as `DISK.vmdisk-journal`, for its owner alone.

use std::path::{Path, PathBuf};

use super::format::{Journal, MAX_LEN};
use crate::error::{Case, Error, ErrorKind, Result};
use crate::host::storage::{Storage, read_exact_at};
use crate::host::{
    Access, DEFAULT_MODE, FileKind, FileStorage, Occupant, Owner, Publish, Staging, unpublish,
};

/// What follows the disk's name in the name of its journal.
const SUFFIX: &str = ".vmdisk-journal";

/// A place for one journal.
pub(in crate::image) trait Place {
    /// What messages call the journal.
    fn name(&self) -> &Path;

    /// Puts the journal there, on the medium: whole or not at all.
    ///
    /// # Errors
    /// What the system says; [`Error::changed`] where it is there, though a power cut may take it
    /// away.
    fn publish(&self, journal: &Journal<'_>) -> Result<()>;

    /// The bytes of the journal that is there.
    ///
    /// # Errors
    /// [`JournalStale`](ErrorKind::JournalStale) for what cannot be a journal, and what the system
    /// says.
    fn load(&self) -> Result<Option<Vec<u8>>>;

    /// Takes the journal away, on the medium.
    ///
    /// # Errors
    /// What the system says; the journal may then be there, or come back.
    fn remove(&self) -> Result<()>;
}

/// Beside a disk that is a file.
#[derive(Debug, Clone)]
pub(in crate::image) struct Beside {
    journal: PathBuf,
    /// The number of the user that owns the disk.
    owner: u32,
}

/// The journal's path, of a disk whose path has no symbolic link for its last component.
pub(super) fn beside(disk: &Path) -> PathBuf {
    let mut name = disk.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    disk.with_file_name(name)
}

impl Beside {
    /// Beside this disk, where it really is; `None` for a block device: files in the folder of its
    /// node do not last.
    ///
    /// # Errors
    /// What fstat(2) says.
    pub(in crate::image) fn of(disk: &FileStorage) -> Result<Option<Beside>> {
        let info = disk.info()?;
        let place = || Beside { journal: beside(disk.path()), owner: info.user };
        Ok((info.kind == FileKind::Regular).then(place))
    }

    /// An error about what lies there.
    fn stale(&self, why: &str) -> Error {
        Error::new(ErrorKind::JournalStale, why).at_path(&self.journal)
    }

    /// An error about something else that lies there.
    fn no_journal(&self, why: &str) -> Error {
        self.stale(why).in_case(Case::NoJournal)
    }
}

/// Whether there is anything that has this name. Beside a disk whose name is nearly as long as names
/// may be, there cannot be a journal.
pub(super) fn lies_there(journal: &Path) -> Result<bool> {
    match Occupant::of(journal) {
        Err(error) if error.kind() == ErrorKind::BadRequest => Ok(false),
        occupant => Ok(occupant? != Occupant::Nobody),
    }
}

impl Place for Beside {
    fn name(&self) -> &Path {
        &self.journal
    }

    fn publish(&self, journal: &Journal<'_>) -> Result<()> {
        // Whoever owns the disk can read its journal, whoever makes it.
        let owner = Owner { user: self.owner, group: None };
        let given = (Owner::current().user == 0).then_some(owner);
        let staging = Staging::begin(&self.journal, DEFAULT_MODE, given)?;
        let mut writer = Writer { storage: staging.storage(), offset: 0, buffer: Vec::new() };
        journal.encode(&mut |bytes| writer.put(bytes))?;
        writer.flush()?;
        staging.publish(Publish::NoReplace).map_err(|error| match error.kind() {
            ErrorKind::Exists => self.stale("has appeared while the disk was open"),
            _ => error,
        })
    }

    fn load(&self) -> Result<Option<Vec<u8>>> {
        if !lies_there(&self.journal)? {
            return Ok(None);
        }
        match Occupant::of(&self.journal)? {
            Occupant::Nobody => return Ok(None),
            Occupant::File => {}
            Occupant::Folder | Occupant::LinkToNowhere => {
                return Err(self.no_journal("is no file, where the journal of the disk would be"));
            }
        }
        let storage =
            FileStorage::open(&self.journal, Access::Read).map_err(|error| match error.kind() {
                ErrorKind::NotADisk => self.no_journal("is no file, where the journal would be"),
                _ => error,
            })?;
        let info = storage.info()?;
        if info.kind != FileKind::Regular || info.len > MAX_LEN {
            let message = format!("is no journal: {} bytes, at most {MAX_LEN}", info.len);
            return Err(self.no_journal(&message));
        }
        // What it says is written to the disk: nobody else may say it who happens to be able to
        // make files in this folder.
        if ![0, self.owner, Owner::current().user].contains(&info.user) {
            let message = format!("belongs to user {}, not to the disk's owner", info.user);
            return Err(self.stale(&message));
        }
        let mut bytes = vec![0; usize::try_from(info.len).unwrap_or_default()];
        read_exact_at(&storage, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn remove(&self) -> Result<()> {
        unpublish(&self.journal)
    }
}

/// Writes small pieces as large ones.
struct Writer<'a> {
    storage: &'a FileStorage,
    offset: u64,
    buffer: Vec<u8>,
}

impl Writer<'_> {
    const LARGE: usize = 256 << 10;

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < Self::LARGE { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        self.storage.write_at(self.offset, &self.buffer)?;
        self.offset += u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        self.buffer.clear();
        Ok(())
    }
}
