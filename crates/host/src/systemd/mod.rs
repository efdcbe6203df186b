//! Asks systemd for slices with limits, over the socket that it opens for root: no message bus needs to run. Whoever
//! makes a cgroup below systemd's without asking loses its limits at the next reload.
//!
//! Source: <https://www.freedesktop.org/wiki/Software/systemd/ControlGroupInterface/> and org.freedesktop.systemd1(5).

mod message;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result, io};
use message::{Argument, HEAD, Kind, Message};
pub use message::{Property, Value};

/// Where systemd listens to root.
pub const SOCKET: &str = "/run/systemd/private";
/// Longest wait for systemd's next word.
const LIMIT: Duration = Duration::from_secs(30);
/// Most words about other things while one answer is waited for.
const PATIENCE: usize = 100_000;

/// systemd as a manager of slices. Every call has a connection of its own: a manager that was replaced meanwhile is
/// no matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Systemd {
    socket: PathBuf,
}

impl Default for Systemd {
    fn default() -> Self {
        Systemd {
            socket: SOCKET.into(),
        }
    }
}

impl Systemd {
    /// The manager behind a socket.
    pub fn at(socket: &Path) -> Self {
        Systemd {
            socket: socket.to_owned(),
        }
    }

    /// Whether systemd is there and lets us in.
    ///
    /// # Errors
    /// When it does not run, or not for us.
    pub fn greet(&self) -> Result<()> {
        Talk::begin(self, "let in", "the caller").map(drop)
    }

    /// Starts a slice with these properties, and those above it; one that is there gets the properties.
    ///
    /// # Errors
    /// When systemd cannot be reached or refuses.
    pub fn start_slice(&self, slice: &str, properties: &[Property]) -> Result<()> {
        let mut asked = vec![
            ("Description", Value::Text(format!("cgroup {slice}"))),
            ("DefaultDependencies", Value::Bool(false)),
        ];
        asked.extend(properties.iter().cloned());
        let arguments = [
            Argument::Text(slice),
            Argument::Text("replace"),
            Argument::Properties(&asked),
            Argument::NoUnits,
        ];
        let mut talk = Talk::begin(self, "start", slice)?;
        let answer = talk.ask("StartTransientUnit", &arguments)?;
        match refusal(&answer) {
            None => talk.until_done(&answer),
            Some("UnitExists") => self.set_properties(slice, properties),
            Some(_) => Err(talk.refused(&answer)),
        }
    }

    /// Changes properties of a unit that is there, until the machine is restarted.
    ///
    /// # Errors
    /// When systemd cannot be reached or refuses.
    pub fn set_properties(&self, unit: &str, properties: &[Property]) -> Result<()> {
        let mut talk = Talk::begin(self, "change", unit)?;
        let arguments = [
            Argument::Text(unit),
            Argument::Bool(true),
            Argument::Properties(properties),
        ];
        let answer = talk.ask("SetUnitProperties", &arguments)?;
        match refusal(&answer) {
            None => Ok(()),
            Some(_) => Err(talk.refused(&answer)),
        }
    }

    /// Stops a unit with all units in it, which ends their processes; one that is not there is no error.
    ///
    /// # Errors
    /// When systemd cannot be reached or refuses.
    pub fn stop(&self, unit: &str) -> Result<()> {
        let mut talk = Talk::begin(self, "stop", unit)?;
        let answer = talk.ask("StopUnit", &[Argument::Text(unit), Argument::Text("replace")])?;
        match refusal(&answer) {
            None => talk.until_done(&answer),
            Some("NoSuchUnit") => Ok(()),
            Some(_) => Err(talk.refused(&answer)),
        }
    }
}

/// The last part of an error's name, if this answer is one.
fn refusal(answer: &Message) -> Option<&str> {
    let last = answer.name.rsplit('.').next();
    last.filter(|_| answer.kind == Kind::Refusal)
}

/// One connection, for one thing to be done to one unit.
struct Talk<'a> {
    stream: UnixStream,
    systemd: &'a Systemd,
    action: &'static str,
    unit: &'a str,
    /// Jobs that have ended, with their results.
    ended: Vec<(String, String)>,
}

const SERIAL: u32 = 1;

impl<'a> Talk<'a> {
    fn begin(systemd: &'a Systemd, action: &'static str, unit: &'a str) -> Result<Self> {
        let path = &systemd.socket;
        let stream = UnixStream::connect(path).map_err(io("reach systemd at", path))?;
        let limited = stream.set_read_timeout(Some(LIMIT));
        limited
            .and_then(|()| stream.set_write_timeout(Some(LIMIT)))
            .map_err(io("limit the wait at", path))?;
        let mut talk = Talk {
            stream,
            systemd,
            action,
            unit,
            ended: Vec::new(),
        };
        talk.introduce()?;
        Ok(talk)
    }

    /// Says who we are: the kernel vouches for it.
    fn introduce(&mut self) -> Result<()> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|b| format!("{b:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1000 {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK ") {
            return Err(self.failed(format!("not let in: {}", String::from_utf8_lossy(&line).trim())));
        }
        self.write(b"BEGIN\r\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.stream.write_all(bytes);
        written.map_err(io("write to", &self.systemd.socket))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let read = self.stream.read_exact(bytes);
        read.map_err(io("read from", &self.systemd.socket))
    }

    fn failed(&self, message: String) -> Error {
        Error::Systemd {
            action: self.action,
            unit: self.unit.to_owned(),
            message,
        }
    }

    fn refused(&self, answer: &Message) -> Error {
        let said = answer.texts().first().copied().unwrap_or_default();
        self.failed(format!("{}: {said}", answer.name))
    }

    fn next(&mut self) -> Result<Message> {
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let length =
            message::rest(&head).ok_or_else(|| self.failed("its answer is no message".to_owned()))?;
        let mut rest = vec![0; length];
        self.fill(&mut rest)?;
        message::read(&head, &rest).ok_or_else(|| self.failed("its answer is broken".to_owned()))
    }

    /// Calls a method; refusals are answers as well.
    fn ask(&mut self, method: &str, arguments: &[Argument<'_>]) -> Result<Message> {
        self.write(&message::call(SERIAL, method, arguments))?;
        for _ in 0..PATIENCE {
            let message = self.next()?;
            if message.answers == Some(SERIAL) {
                return Ok(message);
            }
            self.note(&message);
        }
        Err(self.failed("it does not answer".to_owned()))
    }

    /// Remembers jobs that have ended: `JobRemoved(id, job, unit, result)`.
    fn note(&mut self, message: &Message) {
        if message.name == "JobRemoved"
            && let [job, _, result] = message.texts()[..]
        {
            self.ended.push((job.to_owned(), result.to_owned()));
        }
    }

    /// Waits until the job that this answer names has ended.
    fn until_done(&mut self, answer: &Message) -> Result<()> {
        let job = answer.texts().first().copied().unwrap_or_default().to_owned();
        for _ in 0..PATIENCE {
            let result = self.ended.iter().find(|(ended, _)| *ended == job);
            match result.map(|(_, result)| result.as_str()) {
                Some("done" | "skipped") => return Ok(()),
                Some(other) => return Err(self.failed(format!("the job ended as {other}"))),
                None => {
                    let message = self.next()?;
                    self.note(&message);
                }
            }
        }
        Err(self.failed("the job does not end".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn without_systemd_the_error_names_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let error = Systemd::at(&folder.path().join("private")).greet().unwrap_err();
        assert!(
            error.to_string().starts_with("failed to reach systemd at /"),
            "{error}"
        );
    }

    #[test]
    fn one_that_does_not_let_us_in_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("private");
        let listener = UnixListener::bind(&socket).unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = [0; 16];
            stream.read_exact(&mut said).unwrap();
            stream.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
            said
        });
        let error = Systemd::at(&socket).start_slice("a.slice", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "systemd did not start a.slice: not let in: REJECTED EXTERNAL"
        );
        assert_eq!(&other.join().unwrap()[..15], b"\0AUTH EXTERNAL ");
    }
}
