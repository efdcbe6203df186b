//! An etcd of three members over TLS: each is killed in turn under write load, and nothing acknowledged is lost. The
//! token webhook over TLS stands here too: both are what a server asks others for.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mainstay_base::clock::SystemClock;
use mainstay_pki::Authority;
use parking_lot::Mutex;
use serde_json::json;

use crate::server::{Server, start_with};
use crate::tools::{Running, free_port, run, wait};

const LIMIT: Duration = Duration::from_secs(60);
const WRITERS: usize = 4;
/// What each phase must get through: before a kill, while a member is gone, after it is back.
const WRITES_PER_PHASE: usize = 40;

fn rounds() -> usize {
    match std::env::var("MAINSTAY_TEST_TIER").as_deref() {
        Ok("full") => 10,
        _ => 1,
    }
}

/// An authority with one serving and one client certificate, as files.
struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    fn make(folder: &Path) -> Certificates {
        let clock = SystemClock::shared();
        let authority = Authority::create("test", clock.now()).expect("an authority");
        let life = SignedDuration::from_hours(1);
        let names = ["127.0.0.1".to_string(), "localhost".to_string()];
        let serving = authority.serving("server", &names, clock.now(), life);
        let client = authority.client("api", &[], &[], clock.now(), life);
        let (serving, client) = (serving.expect("a certificate"), client.expect("a certificate"));
        for (name, text) in [
            ("ca.pem", &authority.pem().certificate),
            ("serving.pem", &serving.certificate),
            ("serving.key", &serving.key),
            ("client.pem", &client.certificate),
            ("client.key", &client.key),
        ] {
            std::fs::write(folder.join(name), text).expect("the test's folder is writable");
        }
        Certificates {
            folder: folder.to_path_buf(),
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

/// One member of an etcd cluster, which can be killed and started again.
struct Member {
    name: String,
    client: u16,
    peer: u16,
    health: u16,
    process: Option<Running>,
}

struct Cluster {
    members: Vec<Member>,
    folder: PathBuf,
    certificates: Certificates,
}

impl Cluster {
    fn start(folder: &Path) -> Cluster {
        let member = |number: usize| Member {
            name: format!("m{number}"),
            client: free_port(),
            peer: free_port(),
            health: free_port(),
            process: None,
        };
        let mut cluster = Cluster {
            members: (0..3).map(member).collect(),
            folder: folder.to_path_buf(),
            certificates: Certificates::make(folder),
        };
        (0..3).for_each(|number| cluster.run(number));
        (0..3).for_each(|number| cluster.healthy(number));
        cluster
    }

    fn run(&mut self, number: usize) {
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer))
            .collect();
        let member = &self.members[number];
        let (client, peer) = (
            format!("https://127.0.0.1:{}", member.client),
            format!("http://127.0.0.1:{}", member.peer),
        );
        let mut command = Command::new("etcd");
        for (flag, value) in [
            ("--name", member.name.clone()),
            (
                "--data-dir",
                self.folder.join(&member.name).to_string_lossy().into_owned(),
            ),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            (
                "--listen-metrics-urls",
                format!("http://127.0.0.1:{}", member.health),
            ),
            ("--initial-cluster", peers.join(",")),
            ("--trusted-ca-file", self.certificates.file("ca.pem")),
            ("--cert-file", self.certificates.file("serving.pem")),
            ("--key-file", self.certificates.file("serving.key")),
            ("--log-level", "error".into()),
        ] {
            command.args([flag, &value]);
        }
        command.arg("--client-cert-auth");
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.members[number].process = Some(Running(child.expect("etcd is installed")));
    }

    /// Waits until a member serves writes.
    fn healthy(&self, number: usize) {
        let port = self.members[number].health;
        wait("a healthy etcd member", LIMIT, || {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.contains(r#""health":"true""#).then_some(())
        });
    }

    fn kill(&mut self, number: usize) {
        let mut process = self.members[number].process.take().expect("the member runs");
        process.0.kill().expect("it runs");
        process.0.wait().expect("it ends");
    }

    fn server(&self, folder: &Path) -> Server {
        let urls = self
            .members
            .iter()
            .map(|member| format!("https://127.0.0.1:{}", member.client));
        let flags = [
            format!("--etcd-servers={}", urls.collect::<Vec<_>>().join(",")),
            format!("--etcd-cafile={}", self.certificates.file("ca.pem")),
            format!("--etcd-certfile={}", self.certificates.file("client.pem")),
            format!("--etcd-keyfile={}", self.certificates.file("client.key")),
        ];
        start_with(folder, free_port(), &flags.each_ref().map(String::as_str))
    }
}

/// What writers know to be written.
#[derive(Default)]
struct Load {
    acknowledged: Mutex<BTreeSet<String>>,
    unknown: Mutex<BTreeSet<String>>,
    stop: AtomicBool,
}

impl Load {
    fn count(&self) -> usize {
        self.acknowledged.lock().len()
    }

    /// Creates objects one after the other; an error says nothing about the object it was for.
    async fn write(self: Arc<Self>, api: Api<ConfigMap>, writer: usize) {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("w{writer}-{number}");
            let object = json!({"metadata": {"name": name, "labels": {"load": "yes"}}, "data": {"n": number.to_string()}});
            let object: ConfigMap = serde_json::from_value(object).expect("a ConfigMap");
            match api.create(&PostParams::default(), &object).await {
                Ok(_) => self.acknowledged.lock().insert(name),
                Err(kube::Error::Api(status)) if status.code == 409 => panic!("{name}: {status:?}"),
                Err(_) => self.unknown.lock().insert(name),
            };
        }
    }

    /// Waits until as many writes more are acknowledged.
    async fn goes_on(&self, when: &str) {
        let wanted = self.count() + WRITES_PER_PHASE;
        let reached = async {
            while self.count() < wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ended = tokio::time::timeout(LIMIT, reached).await;
        assert!(
            ended.is_ok(),
            "{when}: {} of {wanted} writes after {LIMIT:?}",
            self.count()
        );
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let parsed = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
}

#[test]
fn one_etcd_member_of_three_is_killed_under_load_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let mut cluster = Cluster::start(folder.path());
    let server = cluster.server(&folder.path().join("server"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let api: Api<ConfigMap> = Api::namespaced(client(&server.kubeconfig).await, "default");
        let load = Arc::new(Load::default());
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(load.clone().write(api.clone(), writer)))
            .collect();
        // One of the three is the leader.
        for number in (0..3).cycle().take(3 * rounds()) {
            load.goes_on("with all members").await;
            cluster.kill(number);
            load.goes_on("with two members").await;
            cluster.run(number);
            cluster.healthy(number);
        }
        load.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.expect("no writer was refused");
        }
        let list = api
            .list(&ListParams::default().labels("load=yes"))
            .await
            .expect("the server lists");
        let present: BTreeSet<String> = list
            .items
            .into_iter()
            .filter_map(|map| map.metadata.name)
            .collect();
        let (acknowledged, unknown) = (load.acknowledged.lock().clone(), load.unknown.lock().clone());
        let lost: Vec<_> = acknowledged.difference(&present).collect();
        assert!(lost.is_empty(), "lost of {}: {lost:?}", acknowledged.len());
        let strange: Vec<_> = present
            .iter()
            .filter(|name| !acknowledged.contains(*name) && !unknown.contains(*name))
            .collect();
        assert!(strange.is_empty(), "nobody wrote {strange:?}");
    });
}

/// Answers TokenReviews: `good` is Alice's. Speaks TLS and wants a client certificate.
const WEBHOOK: &str = r#"
import http.server, json, ssl, sys
class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = review["spec"]["token"] == "good"
        user = {"username": "alice", "uid": "7", "groups": ["team"], "extra": {"from": ["hook"]}}
        status = {"authenticated": good, "user": user} if good else {"authenticated": False}
        answer = {"apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
folder, port = sys.argv[1], int(sys.argv[2])
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Webhook)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder + "/ca.pem")
context.verify_mode = ssl.CERT_REQUIRED
context.load_cert_chain(folder + "/serving.pem", folder + "/serving.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

#[test]
fn tokens_are_reviewed_by_a_webhook_over_tls() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    Certificates::make(folder.path());
    let port = free_port();
    let child = Command::new("python3")
        .args(["-c", WEBHOOK])
        .arg(folder.path())
        .arg(port.to_string())
        .spawn();
    let webhook = Running(child.expect("python3 starts"));
    wait("the webhook", LIMIT, || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let config = format!(
        "clusters:\n- {{name: hook, cluster: {{server: 'https://127.0.0.1:{port}/review', certificate-authority: ca.pem}}}}\n\
         users:\n- {{name: api, user: {{client-certificate: client.pem, client-key: client.key}}}}\n\
         contexts:\n- {{name: c, context: {{cluster: hook, user: api}}}}\ncurrent-context: c\n"
    );
    let file = folder.path().join("hook.yaml");
    std::fs::write(&file, config).expect("the test's folder is writable");
    let flag = format!("--authentication-token-webhook-config-file={}", file.display());
    let server = start_with(&folder.path().join("server"), free_port(), &[&flag]);
    let whoami = |token: &str| {
        let url = kube_server(&server.kubeconfig);
        let token = format!("--token={token}");
        // Only the token speaks: no kubeconfig, which has a certificate.
        run(Command::new("kubectl")
            .args([
                "--kubeconfig=/dev/null",
                "--insecure-skip-tls-verify",
                "--server",
                &url,
                &token,
            ])
            .args(["auth", "whoami", "-o", "json"]))
    };
    let known = whoami("good");
    for part in ["\"alice\"", "\"team\"", "\"hook\"", "system:authenticated"] {
        assert!(known.out.contains(part), "{}{}", known.out, known.err);
    }
    let unknown = whoami("bad");
    assert!(
        !unknown.well && unknown.err.contains("Unauthorized"),
        "{}{}",
        unknown.out,
        unknown.err
    );
    drop(webhook);
    assert!(whoami("good").well, "an answer is believed for a while");
    let unasked = whoami("other");
    assert!(
        !unasked.well && unasked.err.contains("Unauthorized"),
        "{}{}",
        unasked.out,
        unasked.err
    );
}

fn kube_server(kubeconfig: &Path) -> String {
    let parsed = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let cluster = parsed.clusters.into_iter().next().and_then(|one| one.cluster);
    cluster.and_then(|cluster| cluster.server).expect("a server")
}
