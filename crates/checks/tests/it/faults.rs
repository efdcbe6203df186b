//! Machines of the local provider as a test sees them: which host and Node they are, what runs in them, and ways to
//! break them as the real world does.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::computer::{find, parent, signal};
use crate::support::{Installation, examples};
use crate::tools::{run, try_kubectl, wait, wait_told};

/// A busy computer needs long; a healthy one seconds.
pub const LIMIT: Duration = Duration::from_secs(180);

/// What is repaired in these tests, quickly. One failed probe a second, two in a row, lasting three seconds.
const POLICY: &str = r#"
apiVersion: mainstay.dev/v1alpha1
kind: RepairPolicy
metadata: {name: default, namespace: default}
spec:
  triggers:
  - {source: Probe, for: 3s, startAt: Restart}
  - {source: Lease, for: 1s, startAt: Reprovision}
  - {source: NodeCondition, type: Ready, status: "False", for: 15s, startAt: RestartService}
  - {source: NodeCondition, type: KernelDeadlock, status: "True", for: 8s, startAt: Restart}
  ladder:
  - {action: RestartService, timeout: 60s, attempts: 1}
  - {action: Restart, timeout: 50s, attempts: 1}
  - {action: Reprovision, timeout: 90s, attempts: 1}
  - {action: BreakFix}
  breaker: {maxUnhealthy: 60%, scope: [pool], cooldown: 5s, reset: Auto}
  maxInFlight: 1
  probation: 2s
  backoff: {initial: 1s, max: 2s}
  fencing: Required
"#;
/// From the first failed probe until the policy acts: two probes and the trigger's time.
pub const GRACE: Duration = Duration::from_secs(2 + 3);

/// Writes the example manifests with quick probes and the policy above; tells where.
pub fn manifests() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("repair-manifests");
    fs::create_dir_all(&folder).expect("the build folder is writable");
    for entry in fs::read_dir(examples())
        .expect("the examples are there")
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path()).expect("a text");
        let text = match name.as_str() {
            "40-repair.yaml" => POLICY.to_string(),
            "50-cluster.yaml" => quick(&text),
            _ => text,
        };
        fs::write(folder.join(name), text).expect("writable");
    }
    folder
}

fn quick(cluster: &str) -> String {
    let mut text = cluster.to_string();
    for (from, to) in [
        ("initialDelaySeconds: 30", "initialDelaySeconds: 20"),
        // No machine shall go while it is idle.
        ("autoscaling: {min: 1,", "autoscaling: {min: 2,"),
        ("periodSeconds: 10", "periodSeconds: 1"),
        ("failureThreshold: 3", "failureThreshold: 2"),
    ] {
        assert!(text.contains(from), "the example has no {from}");
        text = text.replace(from, to);
    }
    text
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Name of the Machine and of its Node.
    pub name: String,
    /// Name of its ComputeNode.
    pub compute: String,
    /// Its host.
    pub host: String,
}

/// The pool's machines that have a Node, ordered by name.
pub fn machines(management: &Path) -> Vec<Machine> {
    let said = try_kubectl(management, &["get", "machines,computenodes", "-o", "json"]);
    let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let host_of = |compute: &str| {
        let found = items
            .iter()
            .find(|item| item["kind"] == "ComputeNode" && item["metadata"]["name"] == compute);
        found.and_then(|node| node["spec"]["hostRef"]["name"].as_str().map(String::from))
    };
    let joined = items
        .iter()
        .filter(|item| item["kind"] == "Machine" && item["metadata"]["deletionTimestamp"].is_null());
    let mut machines: Vec<Machine> = joined
        .filter_map(|machine| {
            let compute = machine["spec"]["infrastructureRef"]["name"].as_str()?;
            Some(Machine {
                name: machine["status"]["nodeRef"]["name"].as_str()?.into(),
                compute: compute.into(),
                host: host_of(compute)?,
            })
        })
        .collect();
    machines.sort_by(|a, b| a.name.cmp(&b.name));
    machines
}

impl Machine {
    fn files(&self, installation: &Installation) -> PathBuf {
        let name = format!("default%2F{}", self.host);
        installation.folder.join("machines/hosts").join(name)
    }

    fn record(&self, installation: &Installation) -> Value {
        let text = fs::read_to_string(self.files(installation).join("record.json")).expect("it has a record");
        serde_json::from_str(&text).expect("it is JSON")
    }

    /// The machine's first process, by its pid on this computer.
    pub fn init(&self, installation: &Installation) -> u32 {
        let record = self.record(installation);
        let pid = record["machine"]["boot"]["process"]["pid"]
            .as_u64()
            .expect("it runs");
        u32::try_from(pid).expect("a pid")
    }

    /// A service of the machine, by a word of its command.
    pub fn service(&self, installation: &Installation, program: &str, word: &str) -> u32 {
        let init = self.init(installation);
        wait("the service to run", LIMIT, || {
            let is = |pid: u32, line: &[String]| {
                let named = line.first().is_some_and(|first| first.ends_with(program));
                named && (word.is_empty() || line.iter().any(|w| w == word)) && parent(pid) == Some(init)
            };
            find(is).pop()
        })
    }

    /// Appends a line to the machine's kernel log.
    pub fn kernel_says(&self, installation: &Installation, line: &str) {
        let log = self.files(installation).join("kmsg");
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(log)
            .expect("it has a kernel log");
        writeln!(file, "{line}").expect("writable");
    }

    /// A file inside the running machine, as a path on this computer.
    pub fn inside(&self, installation: &Installation, path: &str) -> PathBuf {
        let init = self.init(installation);
        PathBuf::from(format!("/proc/{init}/root{path}"))
    }

    /// Ends the machine at once, as a power supply that burns does.
    pub fn crash(&self, installation: &Installation) {
        signal(self.init(installation), "KILL");
    }

    /// Breaks its network card for what comes in: restarts and reinstallation do not help.
    pub fn break_network(&self, installation: &Installation) {
        let init = self.init(installation).to_string();
        let rules =
            "table inet broken { chain in { type filter hook input priority 0; tcp dport 10250 drop; }; }";
        let said = run(Command::new("nsenter").args(["-t", &init, "-n", "nft", rules]));
        assert!(said.well, "nft: {}", said.err);
    }
}

/// A field of a Node by jsonpath.
pub fn node_field(demo: &Path, node: &str, path: &str) -> String {
    try_kubectl(demo, &["get", "node", node, "-o", &format!("jsonpath={path}")]).out
}

/// Status of a condition of a Node.
pub fn node_condition(demo: &Path, node: &str, kind: &str) -> String {
    let path = format!(r#"{{.status.conditions[?(@.type=="{kind}")].status}}"#);
    node_field(demo, node, &path)
}

/// Boot id that a Node reports while it is ready; none otherwise.
pub fn ready_boot(demo: &Path, node: &str) -> Option<String> {
    let ready = node_condition(demo, node, "Ready") == "True";
    ready.then(|| node_field(demo, node, "{.status.nodeInfo.bootID}"))
}

fn repairs(management: &Path, host: &str) -> Vec<Value> {
    let said = try_kubectl(management, &["get", "repairs", "-o", "json"]);
    let list: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let all = list["items"].as_array().cloned().unwrap_or_default();
    all.into_iter()
        .filter(|repair| repair["spec"]["hostRef"]["name"] == host)
        .collect()
}

/// Tells the repair that a fault leads to from those that the host had before.
pub struct NextRepair<'a> {
    management: &'a Path,
    host: String,
    before: Vec<Value>,
}

impl<'a> NextRepair<'a> {
    /// To be called before the fault.
    pub fn of(management: &'a Path, host: &str) -> Self {
        NextRepair {
            management,
            host: host.to_string(),
            before: repairs(management, host),
        }
    }

    /// The repair as it is now, once it has begun.
    pub fn now(&self) -> Option<Value> {
        let name = |repair: &Value| repair["metadata"]["name"].clone();
        let known: Vec<Value> = self.before.iter().map(name).collect();
        repairs(self.management, &self.host)
            .into_iter()
            .find(|repair| !known.contains(&name(repair)))
    }

    /// Waits until the repair is in a state and tells its steps.
    pub fn reaches(&self, state: &str) -> String {
        wait_told(
            &format!("the repair of {} to be {state}", self.host),
            LIMIT * 2,
            || {
                let told = self.now().map(|repair| told(&repair)).unwrap_or_default();
                match told.0 == state {
                    true => Ok(told.1),
                    false => Err(format!("{} after {}", told.0, told.1)),
                }
            },
        )
    }
}

/// Its state, and its steps as `Action Result`.
pub fn told(repair: &Value) -> (String, String) {
    let state = repair["status"]["state"].as_str().unwrap_or_default().to_string();
    let steps = repair["status"]["steps"].as_array().cloned().unwrap_or_default();
    let step = |step: &Value| {
        let word = |key: &str| step[key].as_str().unwrap_or_default().to_string();
        format!("{} {}", word("action"), word("result"))
            .trim()
            .to_string()
    };
    (state, steps.iter().map(step).collect::<Vec<_>>().join(", "))
}

/// What `mainstay doctor` says now.
pub fn doctor(installation: &Installation) -> String {
    run(&mut installation.command("doctor")).out
}

/// Whether `mainstay doctor` finds nothing wrong.
pub fn is_well(installation: &Installation) -> bool {
    run(&mut installation.command("doctor")).well
}

/// What `mainstay why` says about an object now.
pub fn why(installation: &Installation, object: &str) -> String {
    let said = run(installation.command("why").arg(object));
    said.out + &said.err
}
