//! Other shapes of objects: metadata only, and kubectl's tables.

pub mod partial;
pub mod tables;
