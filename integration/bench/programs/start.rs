//! The least program: what it takes is what the system takes to start and end any.

fn main() {}
