//! Clock, error classes, retry, ids and metrics: what every other crate may use. Tiny and slow to change.

pub mod clock;
pub mod error;
pub mod ids;
pub mod metrics;
pub mod retry;
pub mod testdata;
