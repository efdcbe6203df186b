//! Kernel log records: `priority,sequence,microseconds,flags;text`, as `/dev/kmsg` gives them.
//!
//! A local machine's own kernel log is a plain file; lines without that head are taken as text written now.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::rules::Line;

/// Reads one record. `boot` is when the kernel started, `now` dates lines without a head.
pub fn parse(record: &str, boot: Timestamp, now: Timestamp) -> Line {
    let headed = record
        .split_once(';')
        .and_then(|(head, text)| Some((since_boot(head)?, text)));
    let (at, text) = match headed {
        Some((since, text)) => (boot.checked_add(since).unwrap_or(now), text),
        None => (now, record),
    };
    Line {
        at,
        text: escape(text.trim()),
    }
}

fn since_boot(head: &str) -> Option<SignedDuration> {
    let mut fields = head.split(',');
    let (priority, sequence, micros) = (fields.next()?, fields.next()?, fields.next()?);
    priority.parse::<u32>().ok()?;
    sequence.parse::<u64>().ok()?;
    SignedDuration::try_from(Duration::from_micros(micros.parse().ok()?)).ok()
}

/// The kernel shows control and non-ASCII bytes as `\xNN`; plain files get the same.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            // The dictionary of a device message follows on lines of its own.
            b'\n' => escaped.push('\n'),
            0x20..=0x7e => escaped.push(byte as char),
            _ => escaped.push_str(&format!("\\x{byte:02x}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_dated_by_the_kernel_and_a_plain_line_by_now() {
        let (boot, now) = (
            Timestamp::from_second(1000).unwrap(),
            Timestamp::from_second(5000).unwrap(),
        );
        let line = parse("6,42,2500000,-;EXT4-fs error (device q)", boot, now);
        assert_eq!(
            (line.at.as_millisecond(), line.text.as_str()),
            (1_002_500, "EXT4-fs error (device q)")
        );
        let plain = parse("kernel: BUG; still text", boot, now);
        assert_eq!((plain.at, plain.text.as_str()), (now, "kernel: BUG; still text"));
    }
}
