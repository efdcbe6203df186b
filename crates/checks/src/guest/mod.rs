//! An emulated machine: this program runs in it as root of a whole machine with a kernel of its own, where the computer
//! that we are on cannot show something (cgroup v2, systemd as the manager of cgroups, negative scores). Slow, since no
//! hardware helps: minutes for what takes seconds outside.

mod disk;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mainstay_base::clock::{Clock, SystemClock};

/// Longest life of a guest.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// Begins the last that the guest says: the program's exit code follows.
const ENDED: &str = "guest: the program ended with ";
const MEMORY_MIB: u32 = 1536;
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 no_timer_check panic=-1 root=/dev/nvme0n1 rootfstype=ext4 rw \
    init=/usr/lib/systemd/systemd systemd.unified_cgroup_hierarchy=1 systemd.unit=guest.service \
    systemd.show_status=0 hugepagesz=2M hugepages=16";

/// The folder that `scripts/setup-guest` fills.
fn parts() -> Result<PathBuf> {
    let folder = match std::env::var_os("MAINSTAY_GUEST") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("no HOME")?).join(".cache/mainstay/guest"),
    };
    if !folder.join("vmlinuz").is_file() {
        bail!("no {}/vmlinuz: run scripts/setup-guest first", folder.display());
    }
    Ok(folder)
}

/// An emulator that ends with this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended already when the guest switched itself off.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(parts: &Path, folder: &Path) -> Result<Machine> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut command = Command::new("nice");
    command
        .args(["-n", "5", "qemu-system-x86_64", "-accel", "tcg,thread=multi"])
        .args(["-cpu", "max", "-smp", "2", "-m", &MEMORY_MIB.to_string()])
        .args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-nic",
            "none",
            "-no-reboot",
        ])
        .arg("-kernel")
        .arg(parts.join("vmlinuz"))
        .args(["-append", KERNEL_ARGUMENTS])
        .args(["-device", "nvme,serial=root,drive=root", "-drive"])
        .arg(format!(
            "id=root,if=none,format=raw,cache=unsafe,file={}",
            path("disk")
        ))
        .args(["-serial", &format!("file:{}", path("console"))])
        .args(["-serial", "stdio"]);
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64: run scripts/setup-guest first")?;
    Ok(Machine(child))
}

/// Runs this program with these arguments in a guest; what it says there is said here. Fails when it fails.
pub fn run(arguments: &[&str]) -> Result<()> {
    let parts = parts()?;
    let folder = tempfile::tempdir()?;
    disk::make(&parts, folder.path(), arguments)?;
    let mut machine = start(&parts, folder.path())?;
    let said = machine.0.stdout.take().context("no output")?;
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
            // Nobody waits for the rest of what is said.
            let _ = sender.send(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    });
    let clock = SystemClock::new();
    let mut ended_well = false;
    while let Ok(line) = lines.recv_timeout(LIMIT.saturating_sub(clock.monotonic())) {
        eprintln!("guest {:>4.0} s| {line}", clock.monotonic().as_secs_f64());
        if let Some(code) = line.strip_prefix(ENDED) {
            ended_well = code == "0";
            break;
        }
    }
    if !ended_well {
        let console = std::fs::read(folder.path().join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let last = lines[lines.len().saturating_sub(60)..].join("\n");
        bail!(
            "the program failed in the guest, or did not end within {LIMIT:?}; the console's last lines:\n{last}"
        );
    }
    Ok(())
}
