//! The three client-side patch types over values: JSON patch, merge patch, strategic merge patch, each with the
//! quirks of upstream's implementations. Server-side apply lives in [`crate::apply`].

mod json;
mod merge;
mod strategic;

pub use json::json_patch;
pub use merge::merge_patch;
pub use strategic::strategic_merge_patch;

/// Why a patch was not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// It does not apply to this object: 422.
    #[error("{0}")]
    Inapplicable(String),
}

/// Operations a JSON patch may have; upstream's limit.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;

/// What the copies of one JSON patch may add together; upstream's limit is that of a request's body.
pub const MAX_COPIED_BYTES: usize = 3 << 20;

#[cfg(test)]
mod tests;
