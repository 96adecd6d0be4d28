//! Sparse files in memory that keep account of the work and the room that they are asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, ErrorKind, Result};
use crate::host::storage::{Allocation, Storage};

const PAGE: u64 = 4096;
/// What a request is worth that moves no bytes.
const REQUEST: u64 = 64;
/// No file is longer: the largest of `ext4`.
const MAX_LEN: u64 = 16 << 40;

/// What was asked of some files.
#[derive(Debug, Default)]
pub(super) struct Account {
    work: AtomicU64,
    room: AtomicU64,
}

impl Account {
    /// Bytes that were moved, with something for each request.
    pub(super) fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    /// Bytes that the files take.
    pub(super) fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    fn request(&self, bytes: usize) {
        self.work.fetch_add(bytes as u64 + REQUEST, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Pages {
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

/// A file that takes room only where something was written.
#[derive(Debug)]
pub(super) struct Metered {
    pages: Mutex<Pages>,
    account: Arc<Account>,
}

impl Metered {
    /// Files with these contents, and the account that they share.
    pub(super) fn files(files: &[Vec<u8>]) -> (Vec<Arc<Metered>>, Arc<Account>) {
        let account = Arc::<Account>::default();
        let file = |bytes: &Vec<u8>| {
            let file = Metered { pages: Mutex::default(), account: account.clone() };
            file.write_at(0, bytes).unwrap();
            Arc::new(file)
        };
        let files = files.iter().map(file).collect();
        account.work.store(0, Ordering::Relaxed);
        (files, account)
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap()
    }

    /// The pieces of a range that lie in one page each: page, place in it, place in the range.
    fn pieces(
        offset: u64,
        len: usize,
    ) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let piece = (PAGE as usize - within).min(len - done);
            done += piece;
            (piece > 0).then(|| (at / PAGE, within, done - piece..done))
        })
    }

    /// Forgets what lies in whole pages of a range.
    fn give_back(&self, pages: &mut Pages, from: u64, to: u64) {
        let gone: Vec<u64> = pages.pages.range(from..to.max(from)).map(|(page, _)| *page).collect();
        for page in gone {
            pages.pages.remove(&page);
            self.account.room.fetch_sub(PAGE, Ordering::Relaxed);
        }
    }
}

fn require_len(end: u64) -> Result<()> {
    let too_long = || Error::new(ErrorKind::NoSpace, "the file would be too long");
    if end > MAX_LEN { Err(too_long()) } else { Ok(()) }
}

impl Storage for Metered {
    fn len(&self) -> Result<u64> {
        self.account.request(0);
        Ok(self.pages().len)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let pages = self.pages();
        let found = pages.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.account.request(found);
        for (page, within, range) in Metered::pieces(offset, found) {
            let part = &mut buf[range];
            match pages.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + part.len()]),
                None => part.fill(0),
            }
        }
        Ok(found)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        require_len(offset.saturating_add(data.len() as u64))?;
        self.account.request(data.len());
        let mut pages = self.pages();
        for (page, within, range) in Metered::pieces(offset, data.len()) {
            let bytes = pages.pages.entry(page).or_insert_with(|| {
                self.account.room.fetch_add(PAGE, Ordering::Relaxed);
                vec![0; PAGE as usize].into()
            });
            bytes[within..within + range.len()].copy_from_slice(&data[range]);
        }
        pages.len = pages.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        require_len(len)?;
        self.account.request(0);
        let mut pages = self.pages();
        if len < pages.len {
            self.give_back(&mut pages, len.div_ceil(PAGE), u64::MAX);
            if let Some(bytes) = pages.pages.get_mut(&(len / PAGE)) {
                bytes[(len % PAGE) as usize..].fill(0);
            }
        }
        pages.len = len;
        Ok(())
    }

    fn allocate(&self, offset: u64, len: u64, _: Allocation) -> Result<()> {
        let (end, now) = (offset.saturating_add(len), self.len()?);
        self.set_len(end.max(now))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> Result<()> {
        self.account.request(0);
        let mut pages = self.pages();
        let end = offset.saturating_add(len).min(pages.len);
        self.give_back(&mut pages, offset.div_ceil(PAGE), end / PAGE);
        Ok(())
    }

    fn zero_range(&self, offset: u64, len: u64) -> Result<()> {
        self.allocate(offset, len, Allocation::Zeros)?;
        self.write_at(offset, &vec![0; len.min(1 << 20) as usize])
    }

    fn sync(&self) -> Result<()> {
        self.account.request(0);
        Ok(())
    }
}
