//! A whole control plane in memory with its own components, each under its own identity.

mod bad_input;
mod cluster_api;
mod components;
mod contention;
mod devices;
mod discovery;
mod documents;
mod mutations;
mod raw;
