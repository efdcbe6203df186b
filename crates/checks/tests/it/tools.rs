//! Runs the binary and kubectl, and waits for conditions.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The binary under test: built before the tests by `make test`.
pub fn mainstay() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let binary = target.join("debug/mainstay");
    assert!(
        binary.is_file(),
        "no {}: run `cargo build -p mainstay` first",
        binary.display()
    );
    binary
}

/// Whether the long forms of tests are asked for: `make test-all`.
pub fn full_tier() -> bool {
    std::env::var("MAINSTAY_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A process that is ended when the test ends, however it ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a program said.
pub struct Said {
    /// Whether it ended with 0.
    pub well: bool,
    /// Its exit code.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("the program can be started");
    Said {
        well: output.status.success(),
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs kubectl with a kubeconfig; the test fails when kubectl does.
pub fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> String {
    let said = try_kubectl(kubeconfig, arguments);
    assert!(said.well, "kubectl {arguments:?}: {}{}", said.out, said.err);
    said.out
}

/// Runs kubectl with a kubeconfig.
pub fn try_kubectl(kubeconfig: &Path, arguments: &[&str]) -> Said {
    run(Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(arguments))
}

/// Applies a manifest given as text.
pub fn apply(kubeconfig: &Path, folder: &Path, manifest: &str) {
    let file = folder.join("manifest.yaml");
    std::fs::write(&file, manifest).expect("the test's folder is writable");
    kubectl(kubeconfig, &["apply", "-f", &file.to_string_lossy()]);
}

/// Waits until `look` gives something.
///
/// # Panics
/// With what was waited for, after `limit`.
pub fn wait<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    wait_told(what, limit, || look().ok_or_else(String::new))
}

/// Waits until `look` is well; what it says meanwhile is printed when it changes.
///
/// # Panics
/// With what was waited for and what was said last, after `limit`.
pub fn wait_told<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    let mut last = String::new();
    loop {
        let said = match look() {
            Ok(found) => return found,
            Err(said) => said,
        };
        if said != last {
            eprintln!("{:?} {what}: {said}", start.elapsed());
            last = said;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}: {last}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
