//! End-to-end tests with the built binary and real clients.

#![allow(clippy::disallowed_methods)] // a test starts the binary and kubectl, and waits with a limit

mod agent;
mod chromium;
mod clients;
mod computer;
mod controllers;
mod crash;
mod dashboard;
mod faults;
mod guest;
#[cfg(feature = "interop")]
mod interop;
mod load;
mod local;
mod manners;
mod network;
mod quorum;
mod repair;
mod scale;
mod server;
mod support;
mod tools;
mod users;
