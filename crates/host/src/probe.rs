//! Runs a small check program with a time limit and tells how it ended: any ending is an answer, not an error.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What is read of the program's output; the rest is drained.
const OUTPUT_LIMIT_BYTES: u64 = 4096;
/// How often an unfinished program is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The exit code; none when it could not be started, ran out of time or was killed.
    pub exit_code: Option<i32>,
    /// The start of its standard output.
    pub stdout: Vec<u8>,
}

/// Runs `program` in a process group of its own and waits, blocking, at most `limit`; then the group is killed.
pub fn check(program: &str, arguments: &[String], limit: Duration) -> Ending {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    match command.spawn() {
        Ok(child) => wait(child, limit),
        Err(error) => Ending {
            exit_code: None,
            stdout: format!("cannot start {program}: {error}").into_bytes(),
        },
    }
}

fn wait(mut child: Child, limit: Duration) -> Ending {
    let reader = child.stdout.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            let _ = pipe.by_ref().take(OUTPUT_LIMIT_BYTES).read_to_end(&mut kept);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
            kept
        })
    });
    let mut left = limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if left > Duration::ZERO => std::thread::sleep(POLL.min(left)),
            _ => break None,
        }
        left = left.saturating_sub(POLL);
    };
    // Children that the program left behind go with it, also after a normal end.
    let group = rustix::process::Pid::from_child(&child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    if status.is_none() {
        let _ = child.wait();
    }
    let stdout = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
    Ending {
        exit_code: status.and_then(|status| status.code()),
        stdout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, millis: u64) -> Ending {
        check(
            "/bin/sh",
            &["-c".into(), script.into()],
            Duration::from_millis(millis),
        )
    }

    #[test]
    fn every_ending_is_an_answer() {
        assert_eq!(
            shell("echo hi; exit 2", 5000),
            Ending {
                exit_code: Some(2),
                stdout: b"hi\n".to_vec()
            }
        );
        assert_eq!(
            shell("echo slow; sleep 30", 100),
            Ending {
                exit_code: None,
                stdout: b"slow\n".to_vec()
            }
        );
        assert_eq!(check("/no/such", &[], Duration::from_secs(1)).exit_code, None);
    }
}
