//! Web pages over the API: server-rendered, live by server-sent events.
