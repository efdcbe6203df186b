//! A whole control plane in memory with its own components, each under its own identity.

mod components;
mod documents;
