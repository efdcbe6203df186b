//! The patterns of log rules, compiled as upstream reads them.

use regex::bytes::{Regex, RegexBuilder};

/// A pattern that would need a larger program than this is refused.
const PATTERN_LIMIT_BYTES: usize = 1 << 20;

/// Compiles a rule's pattern: ASCII classes, anchored at the end of the newest line by appended text (so of `a|b` only
/// `b` is anchored).
///
/// # Errors
/// When it is not a regular expression or too large.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    let anchored = format!("{pattern}\\z");
    RegexBuilder::new(&anchored)
        .unicode(false)
        .size_limit(PATTERN_LIMIT_BYTES)
        .build()
}
