//! Web pages over the API: server-rendered, live by server-sent events, behind a session token.

mod page;
mod serve;
mod view;

pub use serve::{Error, serve};
