//! Eviction as rules: thresholds, whose turn it is, and whole passes over any machine.

pub mod decide;
pub mod own_limits;
pub mod rank;
pub mod synchronize;
pub mod thresholds;
