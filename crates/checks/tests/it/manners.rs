//! How the binary behaves when something is wrong, and what every command has in common: one clear message with a
//! stable id, an exit code of the table, and nothing changed.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{Said, mainstay, run};

/// What an unprivileged process runs as.
const NOBODY: &str = "65534";

/// A good set; each case breaks it in one place.
const GOOD: &str = "
apiVersion: mainstay.dev/v1alpha1
kind: Region
metadata: {name: home}
spec: {}
---
apiVersion: mainstay.dev/v1alpha1
kind: DataCenter
metadata: {name: desk}
spec: {region: home}
---
apiVersion: mainstay.dev/v1alpha1
kind: Zone
metadata: {name: z1}
spec: {dataCenter: desk}
---
apiVersion: mainstay.dev/v1alpha1
kind: Rack
metadata: {name: r1}
spec: {zone: z1}
---
apiVersion: mainstay.dev/v1alpha1
kind: Host
metadata: {name: h1}
spec: {rack: r1, unit: 1, sku: small, provider: local, resources: {cpus: 1, memoryMiB: 1024, diskMiB: 2048}}
---
apiVersion: mainstay.dev/v1alpha1
kind: OSImage
metadata: {name: node}
spec: {}
---
apiVersion: mainstay.dev/v1alpha1
kind: ClusterDeployment
metadata: {name: demo}
spec:
  version: v1.36.3
  network: {pods: 10.244.0.0/16, services: 10.96.0.0/12}
  nodePools:
  - name: a
    template:
      spec:
        replicas: 1
        skuSelector: {matchLabels: {mainstay.dev/sku: small}}
        imageRef: {name: node}
";

/// What is replaced in the good set, by what, the id, and what the message must say.
const BAD: &[(&str, &str, &str, &str)] = &[
    (
        "mainstay.dev/sku: small",
        "mainstay.dev/sku: huge",
        "MS-CFG-0010",
        "skuSelector.matchLabels[mainstay.dev/sku]: no host has SKU \"huge\"; there are: small",
    ),
    (
        "services: 10.96.0.0/12",
        "services: 10.244.128.0/17",
        "MS-CFG-0011",
        "spec.network.services: 10.244.128.0/17 overlaps with spec.network.pods 10.244.0.0/16",
    ),
    (
        "pods: 10.244.0.0/16",
        "pods: 10.89.0.0/16",
        "MS-CFG-0011",
        "spec.network.pods: 10.89.0.0/16 overlaps with 10.89.0.0/24, the machines' network (--bridge)",
    ),
    (
        "replicas: 1",
        "replicas: 5",
        "MS-CFG-0012",
        "spec.nodePools[0].template.spec.replicas: up to 5 machines are asked for, the racks have 1 hosts that fit",
    ),
    (
        "imageRef: {name: node}",
        "imageRef: {name: nod}",
        "MS-CFG-0013",
        "imageRef.name: there is no OSImage \"nod\" in this namespace; there are: node",
    ),
    (
        "metadata: {name: node}\nspec: {}",
        "metadata: {name: node}\nspec: {treefile: {inline: {ref: a/b, packages: [bash]}}}",
        "MS-CFG-0013",
        "the packages of OSImage \"node\" lack containerd",
    ),
    (
        "spec: {rack: r1,",
        "spec: {rack: r7,",
        "MS-CFG-0014",
        "spec.rack: there is no Rack \"r7\"; there are: r1",
    ),
    (
        "metadata: {name: demo}",
        "metadata: {name: demo",
        "MS-CFG-0001",
        "bad.yaml: ",
    ),
    (
        "version: v1.36.3",
        "version: v1.36.3\n  version: v1.36.4",
        "MS-CFG-0001",
        "\"version\"",
    ),
    (
        "version: v1.36.3",
        "version: v1.36.3\n  colour: blue",
        "MS-CFG-0005",
        "spec.colour: the kind does not have this field",
    ),
    (
        "replicas: 1",
        "replicas: one",
        "MS-CFG-0005",
        "spec.nodePools[0].template.spec.replicas",
    ),
    ("spec: {zone: z1}", "spec: {}", "MS-CFG-0005", "spec.zone"),
    (
        "version: v1.36.3",
        "version: newest",
        "MS-CFG-0002",
        "spec.version: \"newest\" is not a version such as v1.36.3",
    ),
    (
        "kind: ClusterDeployment",
        "kind: ClusterDeploiment",
        "MS-CFG-0004",
        "mainstay.dev/v1alpha1 has no kind \"ClusterDeploiment\"",
    ),
    (
        "apiVersion: mainstay.dev/v1alpha1\nkind: Rack",
        "apiVersion: mainstay.dev/v1\nkind: Rack",
        "MS-CFG-0004",
        "\"mainstay.dev/v1\" does not have kind Rack; there are: mainstay.dev/v1alpha1",
    ),
    (
        "metadata: {name: desk}",
        "metadata: {}",
        "MS-CFG-0001",
        "document 2: metadata.name is missing",
    ),
];

/// A folder for manifests and, beside it, the data directory that must stay as it is.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let place = Place { folder };
        // Others must be able to look into it, for the tests as nobody.
        std::fs::set_permissions(place.folder.path(), std::fs::Permissions::from_mode(0o755))
            .expect("own folder");
        place
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn file(&self, text: &str) -> PathBuf {
        let file = self.folder.path().join("bad.yaml");
        std::fs::write(&file, text).expect("the test's folder is writable");
        file
    }

    /// `up` with addresses that nobody else uses, and the same memory and disk needs on every computer.
    fn up(&self, file: &Path) -> Command {
        self.up_on(file, "127.0.0.1:0")
    }

    fn up_on(&self, file: &Path, listen: &str) -> Command {
        let mut command = Command::new(mainstay());
        command
            .args(["up", "--listen", listen, "--dashboard", "127.0.0.1:0"])
            .args(["--ignore", "memory", "--ignore", "disk-space"])
            .arg("--data-dir")
            .arg(self.data())
            .arg("-f")
            .arg(file);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Should a refused command have started something after all, it must not outlive the test.
        if self.data().exists() {
            let said = run(Command::new(mainstay())
                .args(["down", "--yes", "--purge", "--data-dir"])
                .arg(self.data()));
            eprintln!("down: {}", said.err);
        }
    }
}

/// The one message: the id, what it says, the exit code, and that nothing was made.
fn check(place: &Place, said: &Said, code: i32, id: &str, text: &str) {
    let told = format!("{id} {text:?}\n{}{}", said.out, said.err);
    assert_eq!(said.code, Some(code), "{told}");
    assert!(said.err.contains(text), "{told}");
    assert!(said.err.contains(&format!("mainstay explain {id}")), "{told}");
    assert_eq!(
        said.err.matches("mainstay explain").count(),
        1,
        "more than one message: {told}"
    );
    assert!(!place.data().exists(), "the data directory was made: {told}");
}

#[test]
fn bad_manifests_give_one_message_with_the_field_and_change_nothing() {
    let place = Place::new();
    let dry = run(place.up(&place.file(GOOD)).arg("--dry-run"));
    assert!(dry.well, "the good set: {}{}", dry.out, dry.err);
    assert!(!place.data().exists());
    for (from, to, id, text) in BAD {
        assert_eq!(GOOD.matches(from).count(), 1, "{from}");
        let file = place.file(&GOOD.replace(from, to));
        check(&place, &run(&mut place.up(&file)), 2, id, text);
    }
    let missing = place.folder.path().join("nowhere.yaml");
    check(
        &place,
        &run(&mut place.up(&missing)),
        2,
        "MS-CFG-0001",
        "nowhere.yaml",
    );
}

#[test]
fn several_problems_are_shown_at_once_each_with_its_id() {
    let place = Place::new();
    let text = GOOD
        .replace("imageRef: {name: node}", "imageRef: {name: nod}")
        .replace("spec: {rack: r1,", "spec: {rack: r7,");
    let said = run(place.up(&place.file(&text)).args(["-o", "json"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    let line = said
        .err
        .lines()
        .find(|line| line.contains("\"Failure\""))
        .expect("a failure");
    let failure: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(failure["apiVersion"], "cli.mainstay.dev/v1");
    assert_eq!(failure["id"], "MS-CFG-0002");
    let ids: Vec<&str> = failure["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter_map(|finding| finding["id"].as_str())
        .collect();
    assert_eq!(ids, ["MS-CFG-0014", "MS-CFG-0013"], "{failure}");
}

#[test]
fn a_port_in_use_names_its_holder() {
    let place = Place::new();
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = held.local_addr().expect("it is bound").to_string();
    let file = place.file(GOOD);
    let said = run(&mut place.up_on(&file, &address));
    check(&place, &said, 3, "MS-PRE-0005", &format!("{address} is held by"));
    let said = run(Command::new(mainstay())
        .args(["server", "--listen", &address, "--data-dir"])
        .arg(place.data()));
    check(&place, &said, 3, "MS-PRE-0005", &format!("{address} is held by"));
}

/// The binary where every user may start it.
fn for_everybody(place: &Place) -> PathBuf {
    let copy = place.folder.path().join("mainstay");
    if std::fs::hard_link(mainstay(), &copy).is_err() {
        std::fs::copy(mainstay(), &copy).expect("room for a copy of the binary");
    }
    copy
}

#[test]
fn without_root_it_says_so_first() {
    let place = Place::new();
    let binary = for_everybody(&place);
    let as_nobody = |arguments: &[&str]| {
        run(Command::new("setpriv")
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"])
            .arg(&binary)
            .args(arguments))
    };
    let (data, file) = (place.data(), place.file(GOOD));
    let (data, file) = (data.to_string_lossy(), file.to_string_lossy());
    let said = as_nobody(&[
        "up",
        "-f",
        &file,
        "--data-dir",
        &data,
        "--listen",
        "127.0.0.1:0",
        "--dashboard",
        "127.0.0.1:0",
        "--ignore",
        "memory",
        "--ignore",
        "disk-space",
    ]);
    check(&place, &said, 3, "MS-PRE-0002", "local machines need root");
    let said = as_nobody(&["server", "--listen", "127.0.0.1:0", "--data-dir", &data]);
    check(&place, &said, 3, "MS-PRE-0011", "cannot be written by this user");
    for (arguments, code) in [
        (&["version"][..], 0),
        (&["explain", "MS-PRE-0002"], 0),
        (&["status", "--data-dir", &data], 6),
        (&["down", "--yes", "--data-dir", &data], 0),
    ] {
        let said = as_nobody(arguments);
        assert_eq!(said.code, Some(code), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn a_full_disk_is_seen_before_anything_is_written() {
    let place = Place::new();
    let small = place.folder.path().join("small");
    std::fs::create_dir(&small).expect("the test's folder is writable");
    // In a mount namespace of its own, so that nothing is left however the test ends.
    let in_small = |command: &str| {
        let script = format!(
            "mount -t tmpfs -o size=4m none '{small}' && cd '{small}' || exit 99
             {binary} {command} --data-dir '{small}/data'; code=$?
             test -z \"$(ls -A '{small}')\" || exit 98
             exit $code",
            small = small.display(),
            binary = mainstay().display(),
        );
        run(Command::new("unshare").args(["--mount", "sh", "-c", &script]))
    };
    let file = place.file(GOOD);
    let said = in_small(&format!(
        "up -f {} --listen 127.0.0.1:0 --dashboard 127.0.0.1:0 --ignore memory",
        file.display()
    ));
    check(&place, &said, 3, "MS-PRE-0003", "has 4 MiB free, needs");
    let said = in_small("server --listen 127.0.0.1:0");
    check(&place, &said, 3, "MS-PRE-0003", "has 4 MiB free, needs");
}

#[test]
fn missing_programs_are_named_with_their_packages() {
    let place = Place::new();
    let file = place.file(GOOD);
    let said = run(place.up(&file).env("PATH", "/nowhere"));
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(
        said.err.contains("tool-ostree: ostree is not installed"),
        "{}",
        said.err
    );
    assert!(said.err.contains("apt-get install mmdebstrap"), "{}", said.err);
    assert!(!place.data().exists());
    let ignored = run(place
        .up(&file)
        .args([
            "--dry-run",
            "--ignore",
            "tool-ostree",
            "--ignore",
            "tool-mmdebstrap",
        ])
        .args([
            "--ignore",
            "tool-apt-get",
            "--ignore",
            "tool-busybox",
            "--ignore",
            "tool-ip",
        ])
        .env("PATH", "/nowhere"));
    assert!(ignored.well, "{}", ignored.err);
}

#[test]
fn a_node_without_containerd_says_what_to_install() {
    let place = Place::new();
    let join = place.folder.path().join("node.json");
    let text = serde_json::json!({
        "clusterUID": "u", "apiServers": ["https://127.0.0.1:1"], "caBundle": "", "bootstrapToken": "a.b",
        "nodeName": "n1", "providerID": "mainstay://local/default/n1", "incarnation": 1,
        "expiresAt": "2030-01-01T00:00:00Z",
    });
    std::fs::write(&join, text.to_string()).expect("the test's folder is writable");
    let said = run(Command::new(mainstay())
        .args([
            "node",
            "--container-runtime-endpoint",
            "unix:///nowhere/containerd.sock",
            "--join",
        ])
        .arg(&join)
        .env("PATH", "/nowhere"));
    check(
        &place,
        &said,
        3,
        "MS-NODE-0002",
        "/nowhere/containerd.sock is not there, and containerd is not installed",
    );
}

#[test]
fn a_wrong_kubeconfig_is_named_with_what_is_wrong() {
    let place = Place::new();
    let dead = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                contexts: [{name: c, context: {cluster: k, user: u}}]\n\
                users: [{name: u, user: {token: t}}]\n\
                clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1'}}]\n";
    for (text, code, id, needle) in [
        (None, 2, "MS-API-0004", "No such file"),
        (Some("a: ["), 2, "MS-API-0004", "bad.yaml"),
        (
            Some("apiVersion: v1\nkind: Config\n"),
            2,
            "MS-API-0004",
            "context",
        ),
        (Some(dead), 6, "MS-API-0001", "127.0.0.1:1"),
    ] {
        let file = match text {
            Some(text) => place.file(text),
            None => place.folder.path().join("none"),
        };
        for command in [&["status"][..], &["doctor"], &["why", "host/h1"]] {
            let said = run(Command::new(mainstay())
                .args(command)
                .arg("--kubeconfig")
                .arg(&file));
            check(&place, &said, code, id, needle);
        }
    }
}

#[test]
fn every_command_has_short_help_with_an_example() {
    let help = |arguments: &[&str]| run(Command::new(mainstay()).args(arguments).arg("--help"));
    let top = help(&[]);
    let commands: Vec<String> = top
        .out
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next().map(String::from))
        .filter(|name| name != "help")
        .collect();
    assert!(commands.len() >= 13, "{commands:?}");
    for name in commands.iter().map(String::as_str).chain([""]) {
        let arguments: Vec<&str> = (!name.is_empty()).then_some(name).into_iter().collect();
        let said = help(&arguments);
        let lines = said.out.lines().count();
        assert!(said.well && lines <= 40, "{name}: {lines} lines\n{}", said.out);
        assert!(
            said.out.contains("Examples:"),
            "{name} has no example\n{}",
            said.out
        );
        assert!(
            said.out.lines().all(|line| line.chars().count() <= 100),
            "{name} is too wide\n{}",
            said.out
        );
    }
    // What few people need is told to who asks.
    let all = run(Command::new(mainstay()).args(["node", "--help-all"]));
    assert!(all.well && all.out.contains("--eviction-hard"), "{}", all.out);
    assert!(!help(&["node"]).out.contains("--eviction-hard"));
}

#[test]
fn wrong_usage_ends_with_its_code_and_id() {
    for arguments in [
        &["up", "--nonsense"][..],
        &["nonsense"],
        &[],
        &["up", "--timeout", "soon"],
        &["up", "--bridge", "10.0.0.0"],
        &["why", "h1"],
        &["explain", "MS-NO-0000"],
        &["version", "--log", "a=b=c"],
    ] {
        let said = run(Command::new(mainstay()).args(arguments));
        assert_eq!(said.code, Some(2), "{arguments:?}: {}{}", said.out, said.err);
        assert!(
            said.err.contains("mainstay explain MS-CFG-0003"),
            "{arguments:?}: {}",
            said.err
        );
    }
}

#[test]
fn answers_are_versioned_documents_and_colour_is_only_where_it_is_wanted() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let nowhere = folder.path().join("none");
    let nowhere = nowhere.to_string_lossy();
    let cases = folder.path().join("cases.jsonl");
    std::fs::write(&cases, "").expect("the test's folder is writable");
    let cases = cases.to_string_lossy();
    for (arguments, kind) in [
        (&["version"][..], "Version"),
        (&["explain"], "FailureList"),
        (&["explain", "ms-pre-0001"], "FailureKind"),
        (&["doctor", "--pre", "--data-dir", &nowhere], "Preflight"),
        (&["down", "--plan", "--data-dir", &nowhere], "DownPlan"),
        (&["down", "--yes", "--data-dir", &nowhere], "Down"),
        (&["simulate", "repair", "--schedules", "1"], "RepairSimulation"),
        (&["simulate", "autoscaler", &cases], "AutoscalerSimulation"),
    ] {
        let said = run(Command::new(mainstay()).args(arguments).args(["-o", "json"]));
        let document: serde_json::Value = serde_json::from_str(&said.out)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}{}", said.out, said.err));
        assert_eq!(document["apiVersion"], "cli.mainstay.dev/v1", "{arguments:?}");
        assert_eq!(document["kind"], kind, "{arguments:?}");
        let said = run(Command::new(mainstay()).args(arguments).args(["-o", "yaml"]));
        let document: serde_json::Value = serde_yaml_ng::from_str(&said.out).expect("YAML");
        assert_eq!(document["kind"], kind, "{arguments:?}");
    }
    let status = |set: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::new(mainstay());
        command.args(["status", "--data-dir", &nowhere]).args(arguments);
        run(command.envs(set.iter().copied())).err
    };
    assert!(!status(&[], &[]).contains('\u{1b}'), "no terminal, no colour");
    assert!(status(&[], &["--color", "always"]).contains('\u{1b}'));
    assert!(!status(&[("NO_COLOR", "1")], &["--color", "always"]).contains('\u{1b}'));
    assert!(
        status(&[("MAINSTAY_OUTPUT", "json")], &[]).starts_with('{'),
        "the environment counts"
    );
}

#[test]
fn every_id_is_explained_and_the_exit_codes_are_listed() {
    let list = run(Command::new(mainstay()).args(["explain", "-o", "json"]));
    let list: serde_json::Value = serde_json::from_str(&list.out).expect("JSON");
    let items = list["items"].as_array().expect("items");
    assert!(items.len() >= 30, "{}", items.len());
    let codes: Vec<u64> = list["exitCodes"]
        .as_array()
        .expect("codes")
        .iter()
        .filter_map(|code| code["code"].as_u64())
        .collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 70, 130]);
    for item in items {
        assert!(
            codes.contains(&item["exitCode"].as_u64().expect("a code")),
            "{item}"
        );
        for field in ["title", "meaning", "fix"] {
            assert!(
                item[field].as_str().is_some_and(|text| !text.is_empty()),
                "{item}"
            );
        }
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = run(Command::new(mainstay()).args(["completions", shell]));
        assert!(
            said.well && said.out.contains("kubeconfig"),
            "{shell}: {}",
            said.err
        );
    }
}

#[test]
fn down_where_nothing_is_says_so_and_makes_nothing() {
    let place = Place::new();
    for arguments in [&["--yes"][..], &["--plan"], &["--yes", "--purge"]] {
        let mut command = Command::new(mainstay());
        let said = run(command
            .arg("down")
            .args(arguments)
            .arg("--data-dir")
            .arg(place.data()));
        assert!(said.well, "{arguments:?}: {}", said.err);
        assert!(
            format!("{}{}", said.out, said.err).contains("nothing"),
            "{arguments:?}: {}",
            said.err
        );
        assert!(!place.data().exists());
    }
    let empty = place.folder.path().join("empty");
    std::fs::create_dir(&empty).expect("the test's folder is writable");
    let said = run(Command::new(mainstay())
        .args(["down", "--yes", "--data-dir"])
        .arg(&empty));
    assert!(said.well, "{}", said.err);
    // Without a question to answer it must be told.
    let said = run(Command::new(mainstay()).args(["down", "--data-dir"]).arg(&empty));
    assert_eq!(said.code, Some(2), "{}", said.err);
}
