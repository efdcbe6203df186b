//! Automatic repair: which faults count, how far up the ladder a machine goes, what holds an action back, and
//! which taints faults put on nodes. The decisions are pure; [`simulate`] runs the same functions against the
//! simulated provider.

pub mod controller;
pub mod gates;
pub mod ladder;
pub mod simulate;
pub mod story;
pub mod taint;
pub mod trigger;

pub use controller::start;
pub use simulate::{Report, simulate};
