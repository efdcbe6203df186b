//! The system log monitor as a pure machine: lines in, statuses out.

use std::collections::VecDeque;

use jiff::Timestamp;
use regex::bytes::{Regex, RegexBuilder};
use regex_automata::meta;
use regex_automata::util::syntax;

use crate::config::{DefaultCondition, LogMonitor, Rule};
use crate::status::{Condition, Event, Severity, Status, Truth, change_event};

/// A pattern that would need a larger program than this is refused.
const PATTERN_LIMIT_BYTES: usize = 1 << 20;

/// One log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub at: Timestamp,
    /// Its text without the line end.
    pub text: String,
}

/// Compiles a rule's pattern as upstream reads it: ASCII classes, anchored at the end of the newest line by
/// appended text (so of `a|b` only `b` is anchored).
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

struct Compiled {
    rule: Rule,
    regex: Regex,
}

/// One log monitor's state: its window of lines and its conditions.
pub struct LogRules {
    source: String,
    rules: Vec<Compiled>,
    any: Option<meta::Regex>,
    window: VecDeque<Line>,
    window_limit: usize,
    conditions: Vec<Condition>,
}

impl LogRules {
    /// Starts with every condition False since `now`.
    ///
    /// # Errors
    /// When a pattern does not compile; a checked configuration's do.
    pub fn new(config: &LogMonitor, now: Timestamp) -> Result<Self, regex::Error> {
        let compiled = config.rules.iter().map(|rule| {
            Ok(Compiled {
                rule: rule.clone(),
                regex: compile(&rule.pattern)?,
            })
        });
        let rules = compiled.collect::<Result<Vec<_>, regex::Error>>()?;
        let patterns: Vec<String> = config
            .rules
            .iter()
            .map(|rule| format!("{}\\z", rule.pattern))
            .collect();
        let any = meta::Regex::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .configure(meta::Config::new().utf8_empty(false))
            .build_many(&patterns)
            .ok();
        Ok(LogRules {
            source: config.source.clone(),
            rules,
            any,
            window: VecDeque::new(),
            window_limit: config.buffer_size.max(1),
            conditions: healthy(&config.conditions, now),
        })
    }

    /// The conditions as they are now.
    pub fn status(&self) -> Status {
        Status {
            source: self.source.clone(),
            events: Vec::new(),
            conditions: self.conditions.clone(),
        }
    }

    /// Takes one line; gives a status for each rule that matches it.
    pub fn push(&mut self, line: Line) -> Vec<Status> {
        if self.window.len() == self.window_limit {
            self.window.pop_front();
        }
        self.window.push_back(line);
        let text = self.window_text();
        // One pass over all patterns rules out nearly every line.
        if self.any.as_ref().is_some_and(|any| !any.is_match(&text)) {
            return Vec::new();
        }
        (0..self.rules.len())
            .filter_map(|place| self.try_rule(place, &text))
            .collect()
    }

    fn window_text(&self) -> String {
        let texts: Vec<&str> = self.window.iter().map(|line| line.text.as_str()).collect();
        texts.join("\n")
    }

    fn try_rule(&mut self, place: usize, text: &str) -> Option<Status> {
        let Compiled { rule, regex } = &self.rules[place];
        let found = regex.find(text.as_bytes())?;
        let (at, mut message) = self.matched_lines(text, found.start());
        if !rule.suffix.is_empty() {
            message = format!("{message}; {}", rule.suffix);
        }
        let events = if rule.is_temporary() {
            vec![Event {
                severity: Severity::Warn,
                at,
                reason: rule.reason.clone(),
                message,
            }]
        } else {
            let condition = self
                .conditions
                .iter_mut()
                .find(|condition| condition.kind == rule.condition)?;
            raise(condition, &rule.reason, message, at).into_iter().collect()
        };
        Some(Status {
            source: self.source.clone(),
            events,
            conditions: self.conditions.clone(),
        })
    }

    /// The whole lines from the one the match begins in to the newest, and when the first was written.
    fn matched_lines(&self, text: &str, start: usize) -> (Timestamp, String) {
        let first = text.as_bytes()[..start]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let lines: Vec<&Line> = self.window.iter().skip(first).collect();
        let at = lines.first().map_or(Timestamp::UNIX_EPOCH, |line| line.at);
        (
            at,
            lines
                .iter()
                .map(|line| line.text.as_str())
                .collect::<Vec<_>>()
                .join("\n"),
        )
    }

    /// Sets a condition back to healthy (acknowledged by a person or cleared by a recovery rule).
    pub fn clear(&mut self, kind: &str, defaults: &[DefaultCondition], now: Timestamp) -> Option<Status> {
        let fresh = healthy(defaults, now)
            .into_iter()
            .find(|condition| condition.kind == kind)?;
        let known = self
            .conditions
            .iter_mut()
            .find(|condition| condition.kind == kind)?;
        if known.status == Truth::False {
            return None;
        }
        *known = fresh;
        let event = change_event(known, Severity::Info, now);
        Some(Status {
            source: self.source.clone(),
            events: vec![event],
            conditions: self.conditions.clone(),
        })
    }
}

/// The conditions while all is well.
pub fn healthy(defaults: &[DefaultCondition], now: Timestamp) -> Vec<Condition> {
    let condition = |default: &DefaultCondition| Condition {
        kind: default.kind.clone(),
        status: Truth::False,
        transition: now,
        reason: default.reason.clone(),
        message: default.message.clone(),
    };
    defaults.iter().map(condition).collect()
}

/// Sets a condition True; the same reason again changes nothing and makes no event.
fn raise(condition: &mut Condition, reason: &str, message: String, at: Timestamp) -> Option<Event> {
    if condition.status == Truth::True && condition.reason == reason {
        return None;
    }
    condition.status = Truth::True;
    condition.reason = reason.into();
    condition.message = message;
    condition.transition = at;
    Some(change_event(condition, Severity::Warn, at))
}
