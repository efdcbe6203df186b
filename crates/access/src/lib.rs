//! Who may do what to the Kubernetes API, and what a write must satisfy: authentication, authorization, admission
//! and audit. The server asks through [`hooks`]; nothing here knows about HTTP, the store or watch caches.

pub mod admission;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod hooks;
pub mod info;
pub mod memory_world;
pub mod object;
pub mod outbound;
pub mod pieces;
pub mod query;
pub mod scan;
pub mod sha256;
pub mod status;
pub mod user;

pub use object::Object;
pub use status::{ApiError, ApiResult, Cause};
pub use user::UserInfo;
