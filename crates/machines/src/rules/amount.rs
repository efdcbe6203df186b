//! Numbers that may be percentages.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a percentage of a total is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To the next whole machine (surge, remediations in flight).
    Up,
    /// To the last whole machine (unavailable, health check limit).
    Down,
}

/// The text is neither a number nor a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a number nor a percentage")]
pub struct NotAnAmount {
    /// What was given.
    pub text: String,
}

/// Resolves a number or percentage of `total`.
pub fn resolve(amount: &IntOrString, total: i32, round: Round) -> Result<i32, NotAnAmount> {
    let text = match amount {
        IntOrString::Int(number) => return Ok(*number),
        IntOrString::String(text) => text,
    };
    let fail = || NotAnAmount { text: text.clone() };
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().map_err(|_| fail());
    };
    let product = percent.parse::<i64>().map_err(|_| fail())? * i64::from(total);
    let whole = match round {
        Round::Up => (product + 99).div_euclid(100),
        Round::Down => product.div_euclid(100),
    };
    i32::try_from(whole).map_err(|_| fail())
}

/// Reads a table or flag text as an amount.
pub fn parse(text: &str) -> IntOrString {
    text.parse()
        .map_or_else(|_| IntOrString::String(text.to_string()), IntOrString::Int)
}
