//! A pod as it is reported, pulled for and ended.

pub mod conditions;
pub mod grace;
pub mod keyring;
pub mod pull;
pub mod reported;
pub mod status;
