//! The system log monitor as a pure machine: lines in, statuses out.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use regex::bytes::Regex;
use regex_automata::meta;
use regex_automata::util::syntax;

use crate::config::{DefaultCondition, LogMonitor, Rule};
use crate::pattern::compile;
use crate::status::{Condition, Event, Severity, Status, Truth, change_event};

/// One log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it was written.
    pub at: Timestamp,
    /// Its text without the line end.
    pub text: String,
}

struct Compiled {
    rule: Rule,
    regex: Regex,
    /// Ends the problem; a stock configuration has none.
    recovery: Option<Regex>,
    /// When a line of this rule was seen last, by the clock of the reader.
    last: Option<Timestamp>,
}

impl Compiled {
    fn new(rule: &Rule) -> Result<Self, regex::Error> {
        let recovery = Some(&rule.recover_pattern).filter(|pattern| !pattern.is_empty());
        Ok(Compiled {
            regex: compile(&rule.pattern)?,
            recovery: recovery.map(|pattern| compile(pattern)).transpose()?,
            rule: rule.clone(),
            last: None,
        })
    }
}

/// One log monitor's state: its window of lines and its conditions.
pub struct LogRules {
    source: String,
    rules: Vec<Compiled>,
    any: Option<meta::Regex>,
    window: VecDeque<Line>,
    window_limit: usize,
    conditions: Vec<Condition>,
    defaults: Vec<DefaultCondition>,
}

impl LogRules {
    /// Starts with every condition False since `now`.
    ///
    /// # Errors
    /// When a pattern does not compile; a checked configuration's do.
    pub fn new(config: &LogMonitor, now: Timestamp) -> Result<Self, regex::Error> {
        let compiled = config.rules.iter().map(Compiled::new);
        let rules = compiled.collect::<Result<Vec<_>, regex::Error>>()?;
        let patterns: Vec<String> = config
            .rules
            .iter()
            .flat_map(|rule| {
                let recovery = Some(&rule.recover_pattern).filter(|pattern| !pattern.is_empty());
                std::iter::once(&rule.pattern).chain(recovery)
            })
            .map(|pattern| format!("{pattern}\\z"))
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
            defaults: config.conditions.clone(),
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

    /// Takes one line, read at `now`; gives a status for each rule that matches it, and for each condition that it
    /// ends.
    pub fn push(&mut self, line: Line, now: Timestamp) -> Vec<Status> {
        if self.window.len() == self.window_limit {
            self.window.pop_front();
        }
        self.window.push_back(line);
        let text = self.window_text();
        // One pass over all patterns rules out nearly every line.
        if self.any.as_ref().is_some_and(|any| !any.is_match(&text)) {
            return Vec::new();
        }
        let mut found: Vec<Status> = (0..self.rules.len())
            .filter_map(|place| self.try_rule(place, &text, now))
            .collect();
        found.extend(self.end(now, |compiled| {
            let recovery = compiled.recovery.as_ref();
            recovery.is_some_and(|regex| regex.is_match(text.as_bytes()))
        }));
        found
    }

    /// Ends the conditions whose rule has a time limit that has passed without another line.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Status> {
        self.end(now, |compiled| {
            let limit = compiled
                .rule
                .clear_after
                .and_then(|limit| SignedDuration::try_from(limit).ok());
            limit
                .zip(compiled.last)
                .is_some_and(|(limit, last)| now.duration_since(last) >= limit)
        })
    }

    /// Sets the conditions of the chosen rules back to healthy, where the rule's own reason stands.
    fn end(&mut self, now: Timestamp, chosen: impl Fn(&Compiled) -> bool) -> Vec<Status> {
        let ended: Vec<(String, String)> = self
            .rules
            .iter()
            .filter(|compiled| chosen(compiled))
            .map(|compiled| (compiled.rule.condition.clone(), compiled.rule.reason.clone()))
            .collect();
        let stands = |rules: &Self, kind: &str, reason: &str| {
            let known = rules.conditions.iter().find(|condition| condition.kind == kind);
            known.is_some_and(|condition| condition.reason == reason)
        };
        ended
            .into_iter()
            .filter_map(|(kind, reason)| {
                let stands = stands(self, &kind, &reason);
                stands.then(|| self.clear(&kind, now)).flatten()
            })
            .collect()
    }

    fn window_text(&self) -> String {
        let texts: Vec<&str> = self.window.iter().map(|line| line.text.as_str()).collect();
        texts.join("\n")
    }

    fn try_rule(&mut self, place: usize, text: &str, now: Timestamp) -> Option<Status> {
        let found = self.rules[place].regex.find(text.as_bytes())?;
        let (at, mut message) = self.matched_lines(text, found.start());
        self.rules[place].last = Some(now);
        let rule = &self.rules[place].rule;
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
    pub fn clear(&mut self, kind: &str, now: Timestamp) -> Option<Status> {
        let fresh = healthy(&self.defaults, now)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Monitor, parse};

    fn rules(more: &str) -> LogRules {
        let text = format!(
            r#"{{"plugin": "kmsg", "source": "s",
            "conditions": [{{"type": "Stuck", "reason": "NotStuck", "message": "fine"}}],
            "rules": [{{"type": "permanent", "condition": "Stuck", "reason": "Hung", "pattern": "hung .*"{more}}}]}}"#
        );
        match parse(std::path::Path::new("t.json"), &text).expect("valid") {
            Monitor::Log(config) => LogRules::new(&config, at(0)).expect("compiles"),
            Monitor::Plugin(_) => unreachable!("it is a log monitor"),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn push(rules: &mut LogRules, second: i64, text: &str) -> String {
        let line = Line {
            at: at(second),
            text: text.into(),
        };
        said(&rules.push(line, at(second)))
    }

    fn said(found: &[Status]) -> String {
        let one = |status: &Status| {
            let condition = &status.conditions[0];
            format!(
                "{} {} since {}, {} events",
                condition.status.as_str(),
                condition.reason,
                condition.transition.as_second(),
                status.events.len()
            )
        };
        found.iter().map(one).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_recovery_line_ends_what_its_rule_began() {
        let mut rules = rules(r#", "recoverPattern": "works again""#);
        assert_eq!(push(&mut rules, 1, "works again"), "");
        assert_eq!(push(&mut rules, 2, "hung task"), "True Hung since 2, 1 events");
        assert_eq!(push(&mut rules, 3, "noise"), "");
        assert_eq!(
            push(&mut rules, 4, "it works again"),
            "False NotStuck since 4, 1 events"
        );
        assert_eq!(push(&mut rules, 5, "noise"), "");
    }

    #[test]
    fn silence_ends_a_problem_only_where_the_rule_says_how_long() {
        let mut limited = rules(r#", "clearAfter": "10s""#);
        assert_eq!(push(&mut limited, 1, "hung task"), "True Hung since 1, 1 events");
        // The same problem again changes nothing but puts the end off.
        assert_eq!(push(&mut limited, 6, "hung task"), "True Hung since 1, 0 events");
        assert_eq!(said(&limited.expire(at(15))), "");
        assert_eq!(said(&limited.expire(at(16))), "False NotStuck since 16, 1 events");
        assert_eq!(said(&limited.expire(at(99))), "");
        let mut latched = rules("");
        push(&mut latched, 1, "hung task");
        assert_eq!(said(&latched.expire(at(999_999))), "");
    }
}
