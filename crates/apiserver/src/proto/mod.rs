//! Protobuf bodies of the built-in kinds, both ways. Led by two tables, no generated code: types come from crate
//! `objects`, field numbers from `numbers.txt`.

mod numbers;
mod read;
mod swagger;
mod wire;
mod write;

pub use read::to_json;
pub use swagger::document;
pub use write::{List, event, from_json};

/// What stands before every protobuf body.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtoError {
    /// It is not protobuf, or damaged.
    Malformed,
    /// The kind is not built in.
    Unknown(String),
}

#[cfg(test)]
mod tests;
