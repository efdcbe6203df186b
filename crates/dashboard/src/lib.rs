//! Web pages over the API: server-rendered, live by server-sent events, behind a session token.

mod page;
mod serve;
pub mod view;

pub use serve::{Error, serve, serve_on};
