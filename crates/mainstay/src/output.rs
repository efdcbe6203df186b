//! What a person or a script sees: answers on stdout, progress and failures on stderr, colour only where wanted.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::json;

use crate::outcome::Failure;

/// The version of every JSON document this binary prints.
pub const API_VERSION: &str = "cli.mainstay.dev/v1";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Live on a terminal, plain lines elsewhere.
    Auto,
    /// One line per step.
    Plain,
    /// One JSON object per line.
    Json,
    /// Nothing.
    None,
}

/// When colour is used. `NO_COLOR` wins over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorMode {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people.
    Table,
    /// JSON with apiVersion and kind.
    Json,
    /// YAML with apiVersion and kind.
    Yaml,
}

/// Where and how to print.
#[derive(Debug)]
pub struct Output {
    /// The form of answers.
    pub format: Format,
    progress: ProgressMode,
    color: bool,
    clock: SystemClock,
}

impl Output {
    /// Decides by what was asked for, environment and terminal.
    pub fn new(format: Format, progress: ProgressMode, color: ColorMode) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let progress = match progress {
            ProgressMode::Auto if !terminal => ProgressMode::Plain,
            mode => mode,
        };
        let wanted = match color {
            ColorMode::Auto => terminal,
            ColorMode::Always => true,
            ColorMode::Never => false,
        };
        let color = wanted && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Output {
            format,
            progress,
            color,
            clock: SystemClock::new(),
        }
    }

    /// Prints an answer: `table` for people, else the document with its version.
    pub fn answer(&self, kind: &str, document: serde_json::Value, table: impl FnOnce() -> String) {
        let text = match self.format {
            Format::Table => table(),
            format => structured(kind, document, format),
        };
        let mut out = std::io::stdout().lock();
        // A reader that went away (a closed pipe) is no failure of ours.
        let _ = out.write_all(text.as_bytes()).and_then(|()| {
            if text.ends_with('\n') {
                Ok(())
            } else {
                out.write_all(b"\n")
            }
        });
    }

    /// Prints a failure with its remedy.
    pub fn failure(&self, failure: &Failure) {
        if self.format == Format::Table && self.progress != ProgressMode::Json {
            let cross = self.paint("31", "✗");
            eprintln!("{cross} {}: {}", failure.entry().title, failure.message);
            for finding in &failure.findings {
                eprintln!("  {}  {}: {}", finding.id, finding.name, finding.problem);
                eprintln!("               → {}", finding.fix);
            }
            eprintln!("  → {}", failure.remedy());
            eprintln!("  Details: mainstay explain {}", failure.id);
            return;
        }
        let document = json!({
            "apiVersion": API_VERSION, "kind": "Failure", "id": failure.id, "message": failure.message,
            "fix": failure.remedy(), "exitCode": failure.code() as u8, "findings": failure.findings,
        });
        eprintln!("{document}");
    }

    /// Starts a numbered step of `total`; `expected` is how long it took before.
    pub fn step(&self, number: usize, total: usize, name: &str, expected: Option<Duration>) -> Step<'_> {
        let bar = (self.progress == ProgressMode::Auto).then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template(" {spinner} {prefix:<18} {msg}  {elapsed}") {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Step {
            output: self,
            bar,
            number,
            total,
            name: name.into(),
            expected,
            started: self.clock.monotonic(),
        }
    }

    /// Prints a line for people on stderr, unless progress is off or JSON.
    pub fn note(&self, text: &str) {
        if matches!(self.progress, ProgressMode::Auto | ProgressMode::Plain) {
            eprintln!("{text}");
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_string()
        }
    }
}

fn structured(kind: &str, mut document: serde_json::Value, format: Format) -> String {
    if let Some(map) = document.as_object_mut() {
        map.insert("apiVersion".into(), API_VERSION.into());
        map.insert("kind".into(), kind.into());
    }
    match format {
        Format::Yaml => serde_yaml_ng::to_string(&document).unwrap_or_default(),
        _ => serde_json::to_string_pretty(&document).unwrap_or_default(),
    }
}

/// One step under way; end it with [`Step::done`], else it counts as failed.
pub struct Step<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    number: usize,
    total: usize,
    name: String,
    expected: Option<Duration>,
    started: Duration,
}

impl Step<'_> {
    /// Shows what is waited for now.
    pub fn waiting(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            let expected = self
                .expected
                .map(|time| format!(" of ~{:.0} s", time.as_secs_f64()));
            bar.set_message(format!("{detail}{}", expected.unwrap_or_default()));
        }
    }

    /// Ends the step well.
    pub fn done(mut self, detail: &str) -> Duration {
        self.end("✓", "32", "done", detail)
    }

    fn end(&mut self, mark: &str, color: &str, state: &str, detail: &str) -> Duration {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let output = self.output;
        let took = output.clock.monotonic().saturating_sub(self.started);
        let seconds = took.as_secs_f64();
        match output.progress {
            ProgressMode::None => {}
            ProgressMode::Json => eprintln!(
                "{}",
                json!({
                    "apiVersion": API_VERSION, "kind": "Step", "step": self.number, "of": self.total,
                    "name": self.name, "state": state, "detail": detail, "seconds": seconds,
                })
            ),
            ProgressMode::Auto | ProgressMode::Plain => {
                let mark = output.paint(color, mark);
                eprintln!(
                    " {mark} {}/{} {:<18} {detail:<60} {seconds:>6.1} s",
                    self.number, self.total, self.name
                );
            }
        }
        self.name.clear();
        took
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.end("✗", "31", "failed", "");
        }
    }
}
