//! The Kubernetes API server: request chain, registry, watch caches, discovery and the network front.
//! Objects are canonical bytes with a parsed head; a list is a concatenation, a watch event a shared buffer.

pub mod admission;
pub mod allocate;
pub mod answers;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
pub mod cache;
mod chain;
mod convert;
mod custom;
mod descriptions;
pub mod flow;
pub mod hooks;
pub mod in_process;
pub mod info;
pub mod memory_world;
pub mod metrics;
pub mod negotiate;
pub mod net;
pub mod object;
pub mod openapi;
pub mod outbound;
mod proto;
pub mod proxy;
pub mod query;
pub mod registry;
pub mod resources;
mod respond;
pub mod scan;
mod schema;
pub mod serve;
pub mod server;
mod sha256;
mod shape;
pub mod start;
pub mod status;
pub mod user;

pub use in_process::InProcess;
pub use object::Object;
pub use proxy::NodeClient;
pub use server::{Config, GIT_VERSION, Server};
pub use start::ApiServer;
pub use status::{ApiError, ApiResult, Cause};
pub use user::UserInfo;
