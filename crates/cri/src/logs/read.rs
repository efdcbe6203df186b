//! Reads logs in the CRI format: `TIME STREAM TAG TEXT`, tag `F` for a whole line and `P` for a part of one.

use std::borrow::Cow;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Go on as the log grows.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only lines from this time on.
    pub since: Option<jiff::Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// At most this many bytes.
    pub limit_bytes: Option<usize>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<String>,
}

/// One parsed line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'l> {
    /// RFC 3339 with nanoseconds.
    pub time: Cow<'l, str>,
    /// `stdout` or `stderr`.
    pub stream: Cow<'l, str>,
    /// More of the same line follows, or the text carries its own line end.
    pub partial: bool,
    /// The text without its line end.
    pub content: Cow<'l, [u8]>,
}

/// A line of Docker's JSON logs, which older runtimes leave behind.
#[derive(serde::Deserialize)]
struct JsonLine {
    log: String,
    stream: String,
    time: String,
}

/// Parses one line; `None` when it is not in the format.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    if line.first() == Some(&b'{') {
        let json: JsonLine = serde_json::from_slice(line).ok()?;
        return Some(Line {
            time: json.time.into(),
            stream: json.stream.into(),
            partial: true,
            content: json.log.into_bytes().into(),
        });
    }
    let ended = line.strip_suffix(b"\n");
    let mut parts = ended.unwrap_or(line).splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = std::str::from_utf8(parts.next()?).ok()?;
    let known = matches!(stream, "stdout" | "stderr") && time.parse::<jiff::Timestamp>().is_ok();
    known.then(|| Line {
        time: time.into(),
        stream: stream.into(),
        partial: tags.split(':').next() == Some("P") || ended.is_none(),
        content: parts.next().unwrap_or(b"").into(),
    })
}

/// A time with all nine digits of its second, as readers of logs expect.
fn full_time(time: &str) -> String {
    let zone = time
        .char_indices()
        .skip(19)
        .find(|(_, c)| matches!(c, 'Z' | '+' | '-'))
        .map_or(time.len(), |(at, _)| at);
    let (clock, zone) = time.split_at(zone);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    format!("{seconds}.{fraction:0<9}{zone}")
}

/// Where the last `tail` lines begin.
pub fn tail_start(data: &[u8], tail: Option<usize>) -> usize {
    let Some(tail) = tail else { return 0 };
    if tail == 0 {
        return data.len();
    }
    // A last line that is not ended yet does not count.
    let body = data.strip_suffix(b"\n");
    let skipped = if body.is_some() { tail - 1 } else { tail };
    let ends = body.unwrap_or(data).iter().enumerate().rev();
    let mut ends = ends.filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    ends.nth(skipped).unwrap_or(0)
}

/// Turns raw lines into what a reader sees.
struct Writer<'o> {
    options: &'o Options,
    left: usize,
    middle_of_line: bool,
}

impl<'o> Writer<'o> {
    fn new(options: &'o Options) -> Self {
        Writer {
            options,
            left: options.limit_bytes.unwrap_or(usize::MAX),
            middle_of_line: false,
        }
    }

    /// Appends one raw line; false when the limit is reached.
    fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        if self.left == 0 {
            return false;
        }
        let Some(line) = parse(raw) else { return true };
        let wrong_stream = self
            .options
            .stream
            .as_deref()
            .is_some_and(|s| s != line.stream.as_ref());
        let early = self
            .options
            .since
            .is_some_and(|since| line.time.parse::<jiff::Timestamp>().is_ok_and(|t| t < since));
        if wrong_stream || early {
            return true;
        }
        let mut text = Vec::with_capacity(line.content.len() + 40);
        if self.options.timestamps && !self.middle_of_line {
            text.extend_from_slice(full_time(&line.time).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&line.content);
        if !line.partial {
            text.push(b'\n');
        }
        self.middle_of_line = line.partial;
        let taken = text.len().min(self.left);
        out.extend_from_slice(&text[..taken]);
        self.left -= taken;
        self.left > 0
    }
}

/// What a reader of each stream sees of a whole log.
pub fn split(data: &[u8], options: &Options) -> std::collections::HashMap<&'static str, Vec<u8>> {
    let mut writer = Writer::new(options);
    let mut out = std::collections::HashMap::new();
    let lines = data[tail_start(data, options.tail)..].split_inclusive(|b| *b == b'\n');
    for line in lines.take(options.tail.unwrap_or(usize::MAX)) {
        let stream = match parse(line).map(|l| l.stream == "stderr") {
            Some(true) => "stderr",
            _ => "stdout",
        };
        if !writer.add(line, out.entry(stream).or_default()) {
            break;
        }
    }
    out
}

/// How often a growing log is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Sends a log to `to` as asked. `running` tells whether more can come; following ends when nothing can.
///
/// # Errors
/// When the file cannot be read.
pub async fn send<F, R>(
    path: PathBuf,
    options: Options,
    to: mpsc::Sender<Bytes>,
    running: F,
) -> std::io::Result<()>
where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    let mut file = File::open(&path).await?;
    let start = find_start(&mut file, options.tail).await?;
    file.seek(SeekFrom::Start(start)).await?;
    let mut writer = Writer::new(&options);
    let mut rest: Vec<u8> = Vec::new();
    let mut was_running = true;
    loop {
        let mut chunk = vec![0; CHUNK];
        let read = file.read(&mut chunk).await?;
        if read > 0 {
            rest.extend_from_slice(&chunk[..read]);
            let mut out = Vec::new();
            let more = add_whole_lines(&mut writer, &mut rest, &mut out);
            if !out.is_empty() && to.send(Bytes::from(out)).await.is_err() || !more {
                return Ok(());
            }
            continue;
        }
        if !options.follow || to.is_closed() || !was_running {
            return Ok(());
        }
        if let Some(next) = reopened(&path, &file).await {
            file = next;
            rest.clear();
            continue;
        }
        // One more pass after the end, for what was written just before it.
        was_running = running().await;
        tokio::time::sleep(POLL).await;
    }
}

fn add_whole_lines(writer: &mut Writer<'_>, rest: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    let Some(end) = rest.iter().rposition(|b| *b == b'\n') else {
        return true;
    };
    let whole: Vec<u8> = rest.drain(..=end).collect();
    whole
        .split_inclusive(|b| *b == b'\n')
        .all(|line| writer.add(line, out))
}

/// The new file at `path` after a rotation.
async fn reopened(path: &Path, old: &File) -> Option<File> {
    use std::os::unix::fs::MetadataExt;
    let now = tokio::fs::metadata(path).await.ok()?;
    let held = old.metadata().await.ok()?;
    if now.ino() == held.ino() && now.len() >= held.len() {
        return None;
    }
    File::open(path).await.ok()
}

/// Finds where the last lines begin by reading backwards.
async fn find_start(file: &mut File, tail: Option<usize>) -> std::io::Result<u64> {
    let Some(tail) = tail else { return Ok(0) };
    let length = file.metadata().await?.len();
    let mut size = (CHUNK as u64).min(length);
    loop {
        file.seek(SeekFrom::Start(length - size)).await?;
        let mut data = vec![0; size as usize];
        file.read_exact(&mut data).await?;
        let start = tail_start(&data, Some(tail));
        if start > 0 || size == length || tail == 0 {
            return Ok(length - size + start as u64);
        }
        size = (size * 2).min(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
                       2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n";

    async fn read(options: Options) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        let (to, mut from) = mpsc::channel(16);
        send(path, options, to, || async { false })
            .await
            .expect("readable");
        let mut text = Vec::new();
        while let Some(part) = from.recv().await {
            text.extend_from_slice(&part);
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn logs_are_cut_as_asked() {
        assert_eq!(read(Options::default()).await, "one\ntwo\nthree\n");
        let tail = Options {
            tail: Some(1),
            timestamps: true,
            ..Default::default()
        };
        assert_eq!(read(tail).await, "2026-01-01T00:00:02.000000000Z three\n");
        let since = Options {
            since: "2026-01-01T00:00:01Z".parse().ok(),
            stream: Some("stderr".into()),
            ..Default::default()
        };
        assert_eq!(read(since).await, "two\n");
        let limited = Options {
            limit_bytes: Some(5),
            follow: true,
            ..Default::default()
        };
        assert_eq!(read(limited).await, "one\nt");
    }
}
