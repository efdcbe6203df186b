//! The mainstay binary: arguments, configuration files, wiring.
fn main() {}
