//! The steps that turn a new process into a machine: its filesystems, devices and limits. Pure: files and
//! hierarchies in, steps out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_host::cgroup::Hierarchies;
use mainstay_host::launch::{MountOptions, Step};

/// Devices that a machine may make nodes of, but not use: every disk, the host's memory, I/O ports, kernel log,
/// virtual terminals, watchdog, nvram, kvm, and the controls of btrfs, device-mapper and loop devices.
///
/// A list of what is allowed would be stricter, but then a privileged container, which asks for everything, could not
/// start: the kernel lets a group below ask for everything only if the one above is not a list of what is allowed.
pub(super) const DENIED_DEVICES: &[&str] = &[
    "b *:* rw",
    "c 1:1 rw",
    "c 1:2 rw",
    "c 1:4 rw",
    "c 1:11 rw",
    "c 4:* rw",
    "c 10:130 rw",
    "c 10:144 rw",
    "c 10:232 rw",
    "c 10:234 rw",
    "c 10:236 rw",
    "c 10:237 rw",
];
/// Device nodes of a machine (Linux's list of allocated devices).
const DEVICES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Links that programs expect in /dev.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("pts/ptmx", "ptmx"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];
/// Files that would show or stop the host.
const MASKED: &[&str] = &["proc/kcore", "proc/kmsg", "proc/sysrq-trigger", "proc/keys"];
/// capabilities(7) that reach the host whatever the namespace: module, rawio, boot, time, tty-config, mac-override,
/// mac-admin, syslog, wake-alarm, block-suspend.
const DROPPED_CAPABILITIES: &[u32] = &[16, 17, 22, 25, 26, 32, 33, 34, 35, 36];

/// What a start needs, as paths of the host.
#[derive(Debug)]
pub(super) struct Layout<'a> {
    /// The image's tree; shared, never written.
    pub(super) tree: &'a Path,
    /// An empty folder the root is mounted on.
    pub(super) root: &'a Path,
    /// Block device with the filesystem of /var.
    pub(super) var: &'a Path,
    /// machine.json and join data.
    pub(super) config: &'a Path,
    /// Container image archives.
    pub(super) images: &'a Path,
    /// The machine's own kernel log.
    pub(super) kmsg: &'a Path,
    /// A file with the boot id.
    pub(super) boot_id: &'a Path,
    /// Network namespace.
    pub(super) netns: &'a Path,
    /// Files by which the machine's control group is joined.
    pub(super) join: &'a [PathBuf],
    /// The host's hierarchies.
    pub(super) hierarchies: &'a Hierarchies,
    /// Host name.
    pub(super) name: &'a str,
}

fn mount(source: impl AsRef<Path>, target: PathBuf, kind: &'static str, data: &str) -> Step {
    let (source, data) = (source.as_ref().to_owned(), data.to_owned());
    Step::Mount {
        source,
        target,
        kind,
        flags: MountOptions::default(),
        data,
    }
}

fn bind(source: &Path, target: PathBuf, read_only: bool) -> Step {
    Step::Bind {
        source: source.to_owned(),
        target,
        read_only,
    }
}

fn folder(path: PathBuf) -> Step {
    Step::MakeDirectory(path, 0o755)
}

impl Layout<'_> {
    /// All steps, in order.
    pub(super) fn steps(&self) -> Vec<Step> {
        // The block device is mounted before the control group is joined: its device rules forbid that later.
        let mut steps = vec![
            Step::NewSession,
            Step::EnterNetns(self.netns.to_owned()),
            Step::UnshareMounts,
            Step::PrivateMounts,
            bind(self.tree, self.root.to_owned(), true),
            mount(self.var, self.root.join("var"), "ext4", ""),
        ];
        steps.extend(self.join.iter().cloned().map(Step::JoinGroup));
        steps.extend([Step::Unshare, Step::Fork]);
        steps.extend(self.etc());
        steps.extend(self.run());
        steps.extend(self.devices());
        steps.extend(self.proc());
        steps.extend(self.sys());
        steps.extend([
            Step::Hostname(self.name.to_owned()),
            Step::Pivot(self.root.to_owned()),
            Step::SharedMounts,
        ]);
        steps.extend(DROPPED_CAPABILITIES.iter().copied().map(Step::DropCapability));
        steps
    }

    /// Own files in /etc lie over the image's, so that an update replaces exactly those that were not changed.
    fn etc(&self) -> Vec<Step> {
        let state = self.root.join("var/lib/mainstay/etc");
        let (upper, work) = (state.join("upper"), state.join("work"));
        let lower = self.tree.join("usr/etc");
        let data = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        vec![
            folder(self.root.join("var/lib")),
            folder(self.root.join("var/lib/mainstay")),
            folder(state),
            folder(upper),
            folder(work),
            mount("overlay", self.root.join("etc"), "overlay", &data),
        ]
    }

    fn run(&self) -> Vec<Step> {
        let run = self.root.join("run");
        let (machine, images) = (run.join("mainstay/machine"), run.join("mainstay/images"));
        vec![
            mount("tmpfs", run.clone(), "tmpfs", "mode=755"),
            mount("tmpfs", self.root.join("tmp"), "tmpfs", "mode=1777"),
            folder(run.join("mainstay")),
            folder(machine.clone()),
            folder(images.clone()),
            bind(self.config, machine, true),
            bind(self.images, images, true),
        ]
    }

    fn devices(&self) -> Vec<Step> {
        let dev = self.root.join("dev");
        let mut steps = vec![mount("tmpfs", dev.clone(), "tmpfs", "mode=755")];
        steps.extend(
            DEVICES
                .iter()
                .map(|(name, major, minor)| Step::MakeDevice(dev.join(name), *major, *minor)),
        );
        steps.extend(
            DEVICE_LINKS
                .iter()
                .map(|(content, name)| Step::Symlink(content, dev.join(name))),
        );
        steps.extend(["pts", "shm", "mqueue"].map(|name| folder(dev.join(name))));
        steps.extend([
            mount(
                "devpts",
                dev.join("pts"),
                "devpts",
                "newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            mount("shm", dev.join("shm"), "tmpfs", "mode=1777"),
            mount("mqueue", dev.join("mqueue"), "mqueue", ""),
            Step::MakeFile(dev.join("kmsg")),
            bind(self.kmsg, dev.join("kmsg"), false),
        ]);
        steps
    }

    /// The machine's processes; kernel settings are read-only but for those of its own network namespace.
    fn proc(&self) -> Vec<Step> {
        let (proc, spare) = (self.root.join("proc"), self.root.join("run/.proc"));
        let settings = proc.join("sys");
        let mut steps = vec![
            mount("proc", proc, "proc", ""),
            folder(spare.clone()),
            mount("proc", spare.clone(), "proc", ""),
            bind(&settings, settings.clone(), true),
            bind(&spare.join("sys/net"), settings.join("net"), false),
            Step::Unmount(spare),
            bind(self.boot_id, settings.join("kernel/random/boot_id"), true),
        ];
        let null = self.root.join("dev/null");
        let masked = MASKED.iter().filter(|path| Path::new("/").join(path).exists());
        steps.extend(masked.map(|path| bind(&null, self.root.join(path), false)));
        steps
    }

    fn sys(&self) -> Vec<Step> {
        let groups = self.root.join("sys/fs/cgroup");
        let read_only = MountOptions {
            read_only: true,
            data_only: true,
        };
        let (source, target) = (PathBuf::from("sysfs"), self.root.join("sys"));
        let mut steps = vec![Step::Mount {
            source,
            target,
            kind: "sysfs",
            flags: read_only,
            data: String::new(),
        }];
        if self.hierarchies.unified() {
            steps.push(mount("cgroup2", groups, "cgroup2", ""));
            return steps;
        }
        steps.push(mount("tmpfs", groups.clone(), "tmpfs", "mode=755"));
        for (name, controllers) in joint_hierarchies(self.hierarchies) {
            steps.push(folder(groups.join(&name)));
            steps.push(mount("cgroup", groups.join(&name), "cgroup", &controllers));
            // Joint hierarchies are also found under each controller's own name.
            for controller in controllers
                .split(',')
                .filter(|c| *c != name && !c.contains('=') && *c != "none")
            {
                steps.push(folder(groups.join(controller)));
                steps.push(mount("cgroup", groups.join(controller), "cgroup", &controllers));
            }
        }
        steps
    }
}

/// Version-1 hierarchies: folder name and mount options.
fn joint_hierarchies(hierarchies: &Hierarchies) -> BTreeMap<String, String> {
    let mut by_point: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for (controller, point) in &hierarchies.v1 {
        by_point.entry(point).or_default().push(controller);
    }
    let named = by_point.into_values().map(|controllers| {
        let data = controllers.join(",");
        match data.strip_prefix("name=") {
            Some(name) => (name.to_owned(), format!("none,{data}")),
            None => (data.clone(), data),
        }
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout<'a>(hierarchies: &'a Hierarchies, join: &'a [PathBuf]) -> Vec<String> {
        let path = Path::new;
        let layout = Layout {
            tree: path("/tree"),
            root: path("/m/root"),
            var: path("/dev/loop7"),
            config: path("/m/config"),
            images: path("/images"),
            kmsg: path("/m/kmsg"),
            boot_id: path("/m/boot_id"),
            netns: path("/run/netns/m"),
            join,
            hierarchies,
            name: "m",
        };
        layout.steps().iter().map(Step::to_string).collect()
    }

    #[test]
    fn the_root_is_read_only_and_mounted_before_the_group_is_joined() {
        let hierarchies = Hierarchies {
            v1: BTreeMap::from([
                ("cpu".to_owned(), PathBuf::from("/c/cpu,cpuacct")),
                ("cpuacct".to_owned(), PathBuf::from("/c/cpu,cpuacct")),
                ("memory".to_owned(), PathBuf::from("/c/memory")),
                ("name=systemd".to_owned(), PathBuf::from("/c/systemd")),
            ]),
            v2: None,
        };
        let join = [PathBuf::from("/c/memory/m/cgroup.procs")];
        let steps = layout(&hierarchies, &join);
        let at = |text: &str| {
            steps
                .iter()
                .position(|step| step == text)
                .unwrap_or_else(|| panic!("{text} in {steps:#?}"))
        };
        assert!(at("bind /tree on /m/root ro") < at("mount ext4 /dev/loop7 on /m/root/var "));
        assert!(at("mount ext4 /dev/loop7 on /m/root/var ") < at("join /c/memory/m/cgroup.procs"));
        assert!(at("join /c/memory/m/cgroup.procs") < at("unshare uts, ipc, pid and cgroup namespaces"));
        assert!(
            at("bind /m/root/proc/sys on /m/root/proc/sys ro")
                < at("bind /m/boot_id on /m/root/proc/sys/kernel/random/boot_id ro")
        );
        at("mount cgroup cgroup on /m/root/sys/fs/cgroup/cpu,cpuacct cpu,cpuacct");
        at("mount cgroup cgroup on /m/root/sys/fs/cgroup/cpuacct cpu,cpuacct");
        at("mount cgroup cgroup on /m/root/sys/fs/cgroup/systemd none,name=systemd");
        assert_eq!(steps.last().map(String::as_str), Some("drop capability 36"));
    }

    #[test]
    fn version_two_is_one_mount() {
        let hierarchies = Hierarchies {
            v1: BTreeMap::new(),
            v2: Some(PathBuf::from("/sys/fs/cgroup")),
        };
        let steps = layout(&hierarchies, &[]);
        assert_eq!(steps.iter().filter(|step| step.contains("cgroup2")).count(), 1);
    }
}
