//! The guest's disk: an ext4 image with the programs of this computer that it needs, and the libraries that those need.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::ENDED;
use crate::bench::up::binary;
use crate::site::MACHINE;

/// Programs, by their names on PATH or by their paths.
const PROGRAMS: &[&str] = &[
    "/usr/lib/systemd/systemd",
    "systemctl",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "runc",
    "ip",
    "busybox",
    "/usr/lib/cni/bridge",
    "/usr/lib/cni/host-local",
    "/usr/lib/cni/loopback",
];
/// Modules of the kernel, in the order in which they can be loaded.
const MODULES: &[&str] = &["llc", "stp", "bridge", "veth", "overlay"];
const SIZE: &str = "3G";
/// Where our own programs are, side by side.
const OWN: &str = "usr/lib/checks";
const UNIT: &str = "[Unit]
Description=The program under test
DefaultDependencies=no
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate

[Service]
Type=oneshot
ExecStart=/usr/bin/busybox sh /etc/guest.sh
";

fn run(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.output().with_context(|| name.clone())?;
    if !output.status.success() {
        bail!("{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes the image `disk` in `folder`; the guest will run this program with these arguments.
pub fn make(parts: &Path, folder: &Path, arguments: &[&str]) -> Result<()> {
    let root = folder.join("root");
    frame(&root)?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program =
            mainstay_host::command::find(name).with_context(|| format!("{name} is not installed"))?;
        put(&root, &program)?;
        libraries.extend(needed(&program)?);
    }
    for program in [binary()?, std::env::current_exe()?] {
        let name = program.file_name().context("a program has a name")?;
        let target = root.join(OWN).join(name);
        run(Command::new("strip").arg("-o").arg(&target).arg(&program))?;
        libraries.extend(needed(&program)?);
    }
    for library in libraries {
        put(&root, &library)?;
    }
    applets(&root)?;
    modules(parts, &root)?;
    std::fs::write(root.join("etc/guest.sh"), script(arguments))?;
    let image = folder.join("disk");
    run(Command::new("mkfs.ext4")
        .args(["-q", "-d"])
        .arg(&root)
        .arg(&image)
        .arg(SIZE))?;
    std::fs::remove_dir_all(&root)?;
    Ok(())
}

/// Folders, the links of a merged /usr, and the few files that programs look for.
fn frame(root: &Path) -> Result<()> {
    let folders = [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc/systemd/system",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "var/lib",
        "var/log",
        OWN,
    ];
    for folder in folders {
        std::fs::create_dir_all(root.join(folder))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    symlink("/run", root.join("var/run"))?;
    let files = [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost guest\n"),
        ("hostname", "guest\n"),
        ("resolv.conf", "nameserver 127.0.0.1\n"),
        ("os-release", "ID=guest\nPRETTY_NAME=\"Emulated machine\"\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
        ("systemd/system/guest.service", UNIT),
    ];
    for (name, text) in files {
        std::fs::write(root.join("etc").join(name), text)?;
    }
    Ok(())
}

/// The path below the root, where `/lib` and the like lead into `/usr`.
fn within(root: &Path, path: &Path) -> PathBuf {
    let inner = path.strip_prefix("/").unwrap_or(path);
    match inner.starts_with("usr") {
        true => root.join(inner),
        false => root.join("usr").join(inner),
    }
}

fn put(root: &Path, file: &Path) -> Result<()> {
    let target = within(root, file);
    std::fs::create_dir_all(target.parent().context("a file is in a folder")?)?;
    std::fs::copy(file, &target).with_context(|| file.display().to_string())?;
    Ok(())
}

/// The libraries of a program, as the loader finds them here.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    // A static program has none, which ldd calls a failure.
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = listed
        .lines()
        .map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    Ok(words.flatten().map(PathBuf::from).collect())
}

/// The programs of busybox, where none of that name is there.
fn applets(root: &Path) -> Result<()> {
    for name in run(Command::new("busybox").arg("--list"))?.lines() {
        let taken = ["usr/bin", "usr/sbin"]
            .iter()
            .any(|folder| root.join(folder).join(name).exists());
        if !taken {
            symlink("busybox", root.join("usr/bin").join(name))?;
        }
    }
    Ok(())
}

fn modules(parts: &Path, root: &Path) -> Result<()> {
    let listed = run(Command::new("find")
        .arg(parts.join("modules"))
        .args(["-name", "*.ko"]))?;
    std::fs::create_dir_all(root.join("usr/lib/modules"))?;
    for name in MODULES {
        let file = format!("{name}.ko");
        let found = listed.lines().map(Path::new).find(|path| path.ends_with(&file));
        let found = found.with_context(|| format!("the kernel has no module {name}"))?;
        std::fs::copy(found, root.join("usr/lib/modules").join(file))?;
    }
    Ok(())
}

/// What the guest does: loads modules, runs the program, tells how it ended.
fn script(arguments: &[&str]) -> String {
    format!(
        "exec </dev/null >/dev/ttyS1 2>&1
stty -F /dev/ttyS1 raw
export PATH=/usr/bin:/usr/sbin HOME=/root MAINSTAY_CHECKS_SITE=/var/lib/site {MACHINE}=1
export MAINSTAY_TEST_TIER={tier} RUST_BACKTRACE=1
for module in {modules}; do insmod /usr/lib/modules/$module.ko || echo \"no $module\"; done
mount -t tmpfs tmpfs /tmp
echo \"guest: kernel $(uname -r), controllers $(cat /sys/fs/cgroup/cgroup.controllers)\"
/{OWN}/checks {arguments}
echo \"{ENDED}$?\"
sleep 1
",
        tier = std::env::var("MAINSTAY_TEST_TIER").unwrap_or_default(),
        modules = MODULES.join(" "),
        arguments = arguments.join(" "),
    )
}
