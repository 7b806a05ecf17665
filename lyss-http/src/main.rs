//! lyss
fn main() {}
