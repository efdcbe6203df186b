//! Clock, error classes, retry and ids: what every other crate may use. Tiny and slow to change.

pub mod clock;
pub mod error;
pub mod ids;
pub mod retry;
pub mod testdata;
