//! The outside world: files, locks, holes, staging and publishing.
pub mod storage;
