//! Runs a program to its end and returns what it wrote.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, io};

/// How much of a failed program's output stands in the error.
const OUTPUT_LIMIT_BYTES: usize = 2000;

/// Programs the product calls and the Debian package of each.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ostree", "ostree"),
    ("mmdebstrap", "mmdebstrap"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dnf", "dnf"),
    ("gpg", "gnupg"),
    ("rpm", "rpm"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("busybox", "busybox-static"),
];

/// A program to run to its end.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    input: Option<Vec<u8>>,
    log: Option<PathBuf>,
}

/// Names a program, looked up on PATH unless it is a path.
pub fn program(name: impl AsRef<OsStr>) -> Program {
    Program {
        name: name.as_ref().to_string_lossy().into_owned(),
        arguments: Vec::new(),
        environment: Vec::new(),
        directory: None,
        input: None,
        log: None,
    }
}

impl Program {
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments
            .push(argument.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|a| a.as_ref().to_string_lossy().into_owned()),
        );
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((key.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Gives the program this on its standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Appends what the program says on its standard error to this file, so that progress can be followed.
    #[must_use]
    pub fn log_to(mut self, file: impl AsRef<Path>) -> Self {
        self.log = Some(file.as_ref().to_owned());
        self
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// When the program is missing or ends with anything but 0.
    pub fn run(self) -> Result<String> {
        tracing::debug!(program = self.name, arguments = ?self.arguments, "running");
        // The same place that preflight looked at.
        let found = find(&self.name).unwrap_or_else(|| PathBuf::from(&self.name));
        let mut command = Command::new(found);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdout(Stdio::piped());
        command.stdin(if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stderr(self.stderr()?);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let mut child = command.spawn().map_err(|error| self.spawn_error(error))?;
        let writer = self
            .input
            .clone()
            .zip(child.stdin.take())
            .map(|(input, mut pipe)| std::thread::spawn(move || pipe.write_all(&input)));
        let output = child.wait_with_output().map_err(io("wait for", &self.name))?;
        if let Some(writer) = writer {
            // A program that ends before it has read everything tells so by its status.
            let _ = writer.join();
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(self.failed(output.status.to_string(), said, &text))
    }

    fn stderr(&self) -> Result<Stdio> {
        let Some(log) = &self.log else {
            return Ok(Stdio::piped());
        };
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(io("open", log))?;
        Ok(Stdio::from(file))
    }

    fn spawn_error(&self, error: std::io::Error) -> Error {
        let package = package(&self.name);
        match error.kind() {
            std::io::ErrorKind::NotFound => Error::Missing {
                program: self.name.clone(),
                package,
            },
            _ => io("start", &self.name)(error),
        }
    }

    fn failed(self, status: String, said: String, written: &str) -> Error {
        let from_log = self
            .log
            .as_ref()
            .and_then(|log| std::fs::read_to_string(log).ok());
        let output = from_log.unwrap_or(said);
        let output = if output.trim().is_empty() {
            written.to_owned()
        } else {
            output
        };
        Error::Program {
            program: self.name,
            arguments: self.arguments,
            status,
            output: tail(output.trim()),
        }
    }
}

/// The last [`OUTPUT_LIMIT_BYTES`] of a text.
fn tail(text: &str) -> String {
    let start = text.len().saturating_sub(OUTPUT_LIMIT_BYTES);
    let start = (start..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    text[start..].to_owned()
}

/// The folders of a system where PATH is not set.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Folders that the PATH of ordinary users lacks.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds a program on PATH or in the system folders that ordinary users do not have on it.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| SYSTEM_PATH.into());
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The Debian package that brings a program.
pub fn package(program: &str) -> &'static str {
    PACKAGES
        .iter()
        .find(|(known, _)| *known == program)
        .map_or("that has it", |(_, package)| *package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let text = "x".repeat(300_000);
        assert_eq!(program("cat").input(text.clone()).run().unwrap(), text);
    }

    #[test]
    fn a_failure_names_command_status_and_output() {
        let error = program("sh")
            .args(["-c", "echo no space >&2; exit 3"])
            .run()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh -c echo no space >&2; exit 3 ended with exit status: 3: no space"
        );
        let error = program("mainstay-no-such-program").run().unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }
}
