//! An installation on this computer for end-to-end tests: `up`, `down`, kubeconfigs, common questions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::tools::{Said, mainstay, run, try_kubectl};

/// One installation at a time: all use the same addresses, and share the cache of composed images.
static TURN: Mutex<()> = Mutex::new(());

/// The manifests that come with the product.
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/local")
}

/// The installation of a test; undone when the test ends, however it ends.
pub struct Installation {
    /// Its data directory.
    pub folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Installation {
    /// Waits for its turn and starts from nothing but the image cache, which is kept below the build folder.
    pub fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e");
        std::fs::create_dir_all(&folder).expect("the build folder is writable");
        let installation = Installation { folder, _turn: turn };
        installation.down();
        installation
    }

    /// Brings the example manifests up and waits until all is ready.
    pub fn up(&self) -> Said {
        self.up_with(&[])
    }

    /// The same with more flags.
    pub fn up_with(&self, flags: &[&str]) -> Said {
        run(self.up_command(&examples()).args(flags))
    }

    /// The command that brings the manifests of a folder up.
    pub fn up_command(&self, manifests: &Path) -> Command {
        let mut command = self.command("up");
        command.arg("-f").arg(manifests).args([
            "--listen",
            "127.0.0.1:17443",
            "--dashboard",
            "127.0.0.1:17480",
            "--bridge",
            "10.91.0.0/24",
            "--timeout",
            "900",
        ]);
        command
    }

    /// Undoes everything but the image cache.
    pub fn down(&self) -> Said {
        run(self.command("down").arg("--yes"))
    }

    /// A command on this installation.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(mainstay());
        command
            .arg(name)
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--progress", "plain"]);
        command
    }

    /// The administrator's kubeconfig of the management cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Writes the workload cluster's kubeconfig and tells where.
    pub fn demo(&self) -> PathBuf {
        self.kubeconfig_of("demo", &["demo"])
    }

    /// Writes what `mainstay kubeconfig` prints with these arguments and tells where.
    pub fn kubeconfig_of(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let said = run(self.command("kubeconfig").args(arguments));
        assert!(said.well, "kubeconfig {arguments:?}: {}", said.err);
        let file = self.folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&file, said.out).expect("the folder is writable");
        file
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let said = self.down();
        if !said.well {
            eprintln!("down: {}", said.err);
        }
    }
}

/// How many nodes of a cluster report ready.
pub fn ready_nodes(demo: &Path) -> usize {
    let template = r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    let said = try_kubectl(demo, &["get", "nodes", "-o", template]);
    said.out.lines().filter(|line| *line == "True").count()
}

/// Words of a kubectl answer, such as a jsonpath over a list.
pub fn words(kubeconfig: &Path, arguments: &[&str]) -> Vec<String> {
    let said = try_kubectl(kubeconfig, arguments);
    said.out.split_whitespace().map(String::from).collect()
}
