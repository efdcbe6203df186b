//! Runs the configured monitors: reads their sources and passes what the rules find to the exporter.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use mainstay_base::clock::SharedClock;
use mainstay_control::CancellationToken;
use parking_lot::Mutex;
use regex::Regex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{LogMonitor, Monitor, PluginMonitor, Rule};
use crate::exporter::Exporter;
use crate::plugin::{RunResult, judge};
use crate::rules::{Line, LogRules, healthy};
use crate::status::{Condition, Status};
use crate::tail::{Tail, is_device};
use crate::{kmsg, layout};

/// How often files are looked at.
const POLL: Duration = Duration::from_millis(250);
/// After so many looks without a line the rules' limits of time are looked at.
const LOOKS: u32 = 4;
/// A plugin without limits of its own.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What detection needs to run.
pub struct Options {
    /// The monitors.
    pub monitors: Vec<Monitor>,
    /// The node's name.
    pub node: String,
    /// Writes with the node's own identity.
    pub client: Client,
    /// Time.
    pub clock: SharedClock,
}

/// Runs all monitors until told to stop. A source that cannot be read is tried again, never given up.
pub async fn run(options: Options, stop: CancellationToken) {
    let exporter = Arc::new(Exporter::new(
        options.client,
        &options.node,
        options.clock.clone(),
    ));
    let mut tasks = JoinSet::new();
    for monitor in options.monitors {
        let (exporter, clock, stop) = (exporter.clone(), options.clock.clone(), stop.clone());
        match monitor {
            Monitor::Log(config) => {
                tasks.spawn(async move { follow_log(config, &exporter, clock, stop).await })
            }
            Monitor::Plugin(config) => {
                tasks.spawn(async move { run_plugins(config, exporter, clock, stop).await })
            }
        };
    }
    exporter.run(stop).await;
    tasks.join_all().await;
}

/// When the system started, by its uptime.
fn boot_time(now: Timestamp) -> Timestamp {
    let uptime = std::fs::read_to_string("/proc/uptime").ok();
    let seconds = uptime
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .unwrap_or(0.0);
    now.checked_sub(SignedDuration::from_millis((seconds * 1000.0) as i64))
        .unwrap_or(now)
}

/// Turns raw lines of one source into dated records.
enum Parser {
    Kmsg {
        boot: Timestamp,
    },
    File {
        stamp: Option<Regex>,
        message: Option<Regex>,
        layout: String,
        skip: Vec<String>,
    },
}

impl Parser {
    fn new(config: &LogMonitor, now: Timestamp) -> Self {
        if config.plugin == "kmsg" {
            return Parser::Kmsg { boot: boot_time(now) };
        }
        let setting = |name: &str| {
            config
                .plugin_config
                .get(name)
                .or_else(|| config.plugin_config.get(&name.to_ascii_lowercase()))
        };
        let regex = |name: &str| setting(name).and_then(|pattern| Regex::new(pattern).ok());
        Parser::File {
            stamp: regex("timestamp"),
            message: regex("message"),
            layout: setting("timestampFormat").cloned().unwrap_or_default(),
            skip: config.skip.clone(),
        }
    }

    fn parse(&self, raw: &str, now: Timestamp) -> Option<Line> {
        match self {
            Parser::Kmsg { boot } => Some(kmsg::parse(raw, *boot, now)),
            Parser::File {
                stamp,
                message,
                layout,
                skip,
            } => {
                if skip.iter().any(|text| raw.contains(text)) {
                    return None;
                }
                let at = layout::parse(layout, last_group(stamp.as_ref()?, raw)?, now)?;
                Some(Line {
                    at,
                    text: last_group(message.as_ref()?, raw)?.into(),
                })
            }
        }
    }
}

/// The last group of the match, as upstream uses it; the whole match where the pattern has no group.
fn last_group<'a>(regex: &Regex, text: &'a str) -> Option<&'a str> {
    regex
        .captures(text)?
        .iter()
        .last()
        .flatten()
        .map(|found| found.as_str())
}

async fn follow_log(config: LogMonitor, exporter: &Exporter, clock: SharedClock, stop: CancellationToken) {
    let started = clock.now();
    let mut rules = match LogRules::new(&config, started) {
        Ok(rules) => rules,
        Err(error) => {
            tracing::error!(
                source = config.source,
                problem = error.to_string(),
                "monitor not started"
            );
            return;
        }
    };
    exporter.take(rules.status());
    let parser = Parser::new(&config, started);
    let oldest = oldest_wanted(&config, started);
    let default_path = if config.plugin == "kmsg" { "/dev/kmsg" } else { "" };
    let path = PathBuf::from(if config.log_path.is_empty() {
        default_path
    } else {
        &config.log_path
    });
    let mut source = Source::open(path);
    while let Some(raw_lines) = source.next(&stop).await {
        let now = clock.now();
        let lines = raw_lines
            .iter()
            .filter_map(|raw| parser.parse(raw, now))
            .filter(|line| line.at >= oldest);
        lines.for_each(|line| {
            rules
                .push(line, now)
                .into_iter()
                .for_each(|status| exporter.take(status))
        });
        rules
            .expire(now)
            .into_iter()
            .for_each(|status| exporter.take(status));
    }
}

/// The later of "boot plus delay" and "start minus lookback".
fn oldest_wanted(config: &LogMonitor, started: Timestamp) -> Timestamp {
    let span = |duration: Option<Duration>| {
        SignedDuration::try_from(duration.unwrap_or_default()).unwrap_or_default()
    };
    let after_boot = boot_time(started)
        .checked_add(span(config.delay))
        .unwrap_or(started);
    let back = started.checked_sub(span(config.lookback)).unwrap_or(started);
    after_boot.max(back)
}

/// A place raw lines come from.
enum Source {
    File(Tail),
    Device {
        path: PathBuf,
        device: Option<std::fs::File>,
    },
}

impl Source {
    fn open(path: PathBuf) -> Self {
        if is_device(&path) {
            return Source::Device { path, device: None };
        }
        Source::File(Tail::new(&path))
    }

    /// Waits for lines, at most a moment, so that limits of time are seen; none when told to stop.
    async fn next(&mut self, stop: &CancellationToken) -> Option<Vec<String>> {
        for _ in 0..LOOKS {
            let lines = self.read();
            match lines {
                Ok(lines) if !lines.is_empty() => return Some(lines),
                Ok(_) => {}
                Err(error) => tracing::debug!(
                    problem = error.to_string(),
                    "log source not readable, trying again"
                ),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(POLL) => {}
            }
        }
        Some(Vec::new())
    }

    fn read(&mut self) -> std::io::Result<Vec<String>> {
        match self {
            Source::File(tail) => tail.lines(),
            Source::Device { path, device } => {
                let open = match device.take() {
                    Some(open) => open,
                    None => open_nonblocking(path)?,
                };
                let records = read_records(&open);
                *device = Some(open);
                records
            }
        }
    }
}

fn open_nonblocking(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    /// `O_NONBLOCK` of Linux.
    const NONBLOCKING: i32 = 0o4000;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(NONBLOCKING)
        .open(path)
}

/// Reads what is there: one read gives one record. Overwritten records (EPIPE) are passed over: the next read
/// gives the oldest that is kept.
fn read_records(mut device: &std::fs::File) -> std::io::Result<Vec<String>> {
    use std::io::ErrorKind;
    /// The kernel's longest record with its dictionary.
    const RECORD_LIMIT_BYTES: usize = 8192;
    /// How many records one step takes.
    const STEP_LIMIT: usize = 1000;
    let (mut buffer, mut records) = (vec![0; RECORD_LIMIT_BYTES], Vec::new());
    while records.len() < STEP_LIMIT {
        match std::io::Read::read(&mut device, &mut buffer) {
            Ok(length) => records.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                tracing::warn!("kernel log records were overwritten before they were read");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

async fn run_plugins(
    config: PluginMonitor,
    exporter: Arc<Exporter>,
    clock: SharedClock,
    stop: CancellationToken,
) {
    let conditions = Arc::new(Mutex::new(healthy(&config.conditions, clock.now())));
    if !config.settings.skip_initial_status {
        let known = conditions.lock().clone();
        exporter.take(Status {
            source: config.source.clone(),
            events: Vec::new(),
            conditions: known,
        });
    }
    let config = Arc::new(config);
    let slots = Arc::new(Semaphore::new(config.settings.concurrency.max(1)));
    let mut tasks = JoinSet::new();
    for rule in config.rules.clone() {
        let runner = PluginRule {
            config: config.clone(),
            rule,
            exporter: exporter.clone(),
            conditions: conditions.clone(),
            slots: slots.clone(),
            clock: clock.clone(),
        };
        let stop = stop.clone();
        tasks.spawn(async move { runner.run(stop).await });
    }
    tasks.join_all().await;
}

struct PluginRule {
    config: Arc<PluginMonitor>,
    rule: Rule,
    exporter: Arc<Exporter>,
    conditions: Arc<Mutex<Vec<Condition>>>,
    slots: Arc<Semaphore>,
    clock: SharedClock,
}

impl PluginRule {
    async fn run(&self, stop: CancellationToken) {
        let interval = self
            .rule
            .interval
            .or(self.config.settings.interval)
            .unwrap_or(Duration::from_secs(30));
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.once().await,
            }
        }
    }

    async fn once(&self) {
        let Ok(_slot) = self.slots.acquire().await else {
            return;
        };
        let limit = self
            .rule
            .timeout
            .or(self.config.settings.timeout)
            .unwrap_or(PLUGIN_TIMEOUT);
        let (path, args) = (self.rule.path.clone(), self.rule.args.clone());
        let run = tokio::task::spawn_blocking(move || mainstay_host::probe::check(&path, &args, limit));
        let Ok(ending) = run.await else { return };
        let result = RunResult {
            exit_code: ending.exit_code,
            stdout: ending.stdout,
        };
        let status = {
            let mut conditions = self.conditions.lock();
            judge(
                &self.config,
                &self.rule,
                &result,
                &mut conditions,
                self.clock.now(),
            )
        };
        if let Some(status) = status {
            self.exporter.take(status);
        }
    }
}
