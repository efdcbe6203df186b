//! End-to-end tests with the built binary and real clients.

#![allow(clippy::disallowed_methods)] // a test starts the binary and kubectl, and waits with a limit

mod agent;
mod chromium;
mod computer;
mod controllers;
mod crash;
mod dashboard;
mod faults;
mod local;
mod manners;
mod network;
mod repair;
mod scale;
mod server;
mod support;
mod tools;
mod users;
