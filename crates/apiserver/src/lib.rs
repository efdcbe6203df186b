//! The Kubernetes API server: request chain, registry, watch caches, discovery and the network front.
//! Objects are canonical bytes with a parsed head; a list is a concatenation, a watch event a shared buffer.

pub mod allocate;
pub mod answers;
pub mod body;
pub mod cache;
mod chain;
mod convert;
mod custom;
mod descriptions;
pub mod flow;
pub mod in_process;
mod listing;
pub mod metrics;
pub mod negotiate;
pub mod net;
pub mod openapi;
mod perishable;
pub mod proto;
pub mod proxy;
pub mod registry;
pub mod resources;
mod respond;
mod schema;
mod sending;
pub mod serve;
pub mod server;
mod shape;
pub mod start;

pub use in_process::InProcess;
pub use proxy::NodeClient;
pub use server::{Config, GIT_VERSION, Server};
pub use start::ApiServer;
