//! What is inside the disk.
