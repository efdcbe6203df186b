//! End-to-end tests, benchmarks and the oracle runner.
fn main() {}
