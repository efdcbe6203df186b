//! The custom plugin monitor: a program's exit code judged against a condition. The judging is pure.

use jiff::Timestamp;

use crate::config::{DefaultCondition, PluginMonitor, Rule};
use crate::status::{Condition, Event, Severity, Status, Truth, change_event};

/// What one run of a program gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunResult {
    /// The exit code; none when it was killed, timed out or could not be started.
    pub exit_code: Option<i32>,
    /// What it wrote on its standard output.
    pub stdout: Vec<u8>,
}

impl RunResult {
    /// 0 is False (healthy), 1 is True (problem), all else Unknown.
    fn truth(&self) -> Truth {
        match self.exit_code {
            Some(0) => Truth::False,
            Some(1) => Truth::True,
            _ => Truth::Unknown,
        }
    }

    /// The trimmed output, cut to `limit` bytes (never inside a letter).
    pub fn message(&self, limit: usize) -> String {
        let text = String::from_utf8_lossy(&self.stdout);
        let text = text.trim();
        let end = (0..=limit.min(text.len()))
            .rev()
            .find(|end| text.is_char_boundary(*end))
            .unwrap_or(0);
        text[..end].to_string()
    }
}

/// Judges one run; `None` when there is nothing to tell.
pub fn judge(
    config: &PluginMonitor,
    rule: &Rule,
    result: &RunResult,
    conditions: &mut [Condition],
    now: Timestamp,
) -> Option<Status> {
    let message = result.message(config.settings.max_output_length);
    let events = if rule.is_temporary() {
        let failed = result.exit_code != Some(0);
        failed.then(|| Event {
            severity: Severity::Warn,
            at: now,
            reason: rule.reason.clone(),
            message,
        })?
    } else {
        let default = config
            .conditions
            .iter()
            .find(|default| default.kind == rule.condition)?;
        let condition = conditions
            .iter_mut()
            .find(|condition| condition.kind == rule.condition)?;
        let by_message = config.settings.enable_message_change_based_condition_update;
        update(
            condition,
            rule,
            default,
            (result.truth(), message),
            by_message,
            now,
        )?
    };
    Some(Status {
        source: config.source.clone(),
        events: vec![events],
        conditions: conditions.to_vec(),
    })
}

fn update(
    condition: &mut Condition,
    rule: &Rule,
    default: &DefaultCondition,
    (truth, message): (Truth, String),
    by_message: bool,
    now: Timestamp,
) -> Option<Event> {
    let reason = if truth == Truth::True {
        &rule.reason
    } else {
        &default.reason
    };
    let message = if truth == Truth::False {
        default.message.clone()
    } else {
        message
    };
    // Several rules may share a condition: a healthy one does not clear what another has raised.
    let others = truth != Truth::True && condition.status == Truth::True && condition.reason != rule.reason;
    let same = condition.status == truth && condition.reason == *reason;
    if others || (same && !(by_message && condition.message != message)) {
        return None;
    }
    *condition = Condition {
        kind: condition.kind.clone(),
        status: truth,
        transition: now,
        reason: reason.clone(),
        message,
    };
    let severity = if truth == Truth::True {
        Severity::Warn
    } else {
        Severity::Info
    };
    Some(change_event(condition, severity, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Monitor, parse};
    use crate::rules::healthy;
    use expect_test::expect;

    fn monitor(settings: &str) -> PluginMonitor {
        let text = format!(
            r#"{{"plugin":"custom","source":"s","pluginConfig":{{{settings}}},
            "conditions":[{{"type":"Bad","reason":"Fine","message":"all fine"}}],
            "rules":[{{"type":"permanent","condition":"Bad","reason":"Broken","path":"x"}},
                     {{"type":"temporary","reason":"Blip","path":"x"}}]}}"#
        );
        match parse(std::path::Path::new("t.json"), &text) {
            Ok(Monitor::Plugin(monitor)) => monitor,
            other => panic!("{other:?}"),
        }
    }

    fn play(config: &PluginMonitor, rule: usize, runs: &[(i32, &str)]) -> String {
        let mut conditions = healthy(&config.conditions, Timestamp::UNIX_EPOCH);
        let mut told = String::new();
        for (code, out) in runs {
            let result = RunResult {
                exit_code: Some(*code),
                stdout: out.as_bytes().to_vec(),
            };
            let status = judge(
                config,
                &config.rules[rule],
                &result,
                &mut conditions,
                Timestamp::UNIX_EPOCH,
            );
            for event in status.iter().flat_map(|status| &status.events) {
                told += &format!("{:?} {} {}\n", event.severity, event.reason, event.message);
            }
        }
        told
    }

    #[test]
    fn a_condition_goes_through_all_values_and_clears() {
        expect![[r#"
            Warn Broken Node condition Bad is now: True, reason: Broken, message: "out"
            Info Fine Node condition Bad is now: Unknown, reason: Fine, message: "out"
            Info Fine Node condition Bad is now: False, reason: Fine, message: "all fine"
        "#]]
        .assert_eq(&play(
            &monitor(""),
            0,
            &[(0, "out"), (1, "out"), (1, "changed"), (2, "out"), (0, "out")],
        ));
    }

    #[test]
    fn a_temporary_rule_speaks_at_every_failed_run() {
        expect![[r#"
            Warn Blip a
            Warn Blip b
        "#]]
        .assert_eq(&play(&monitor(""), 1, &[(1, "a"), (0, "x"), (2, "b")]));
    }

    #[test]
    fn output_is_trimmed_and_cut_by_bytes_between_letters() {
        let result = |text: &str| RunResult {
            exit_code: Some(1),
            stdout: text.as_bytes().to_vec(),
        };
        assert_eq!(result(&"x".repeat(200)).message(80).len(), 80);
        assert_eq!(result(&"é".repeat(60)).message(80).chars().count(), 40);
        assert_eq!(result(&"é".repeat(60)).message(81).chars().count(), 40);
        assert_eq!(
            result("\n  padded \n\nsecond line \n").message(80),
            "padded \n\nsecond line"
        );
        assert_eq!(result("abc").message(0), "");
    }
}
