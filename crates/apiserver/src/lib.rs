//! The Kubernetes API server: request chain, registry, watch caches, discovery and the network front.
//! Objects are canonical bytes with a parsed head; a list is a concatenation, a watch event a shared buffer.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod hooks;
pub mod memory_world;
pub mod object;
pub mod outbound;
pub mod scan;
pub mod status;
pub mod user;

pub use object::Object;
pub use status::{ApiError, ApiResult, Cause};
pub use user::UserInfo;
