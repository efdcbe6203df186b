//! Rules and lines.

use std::sync::{Arc, Condvar, Mutex};

use http::Method;

use super::*;
use crate::hooks::AuditStage;
use crate::info::RequestInfo;
use crate::query::Query;
use crate::user::UserInfo;

fn info(method: Method, path: &str) -> RequestInfo {
    RequestInfo::parse(&method, path, &Query::parse(""))
}

fn level(policy: &Policy, user: &UserInfo, method: Method, path: &str) -> Level {
    policy.rule(user, &info(method, path)).level
}

#[test]
fn the_first_matching_rule_gives_the_level() {
    let policy = Policy::parse(
        "
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  users: ['system:kube-proxy']
  verbs: [watch]
- level: Request
  resources: [{group: '', resources: ['pods', 'pods/exec'], resourceNames: ['p']}]
  namespaces: ['a']
- level: Metadata
  nonResourceURLs: ['/logs*']
- level: RequestResponse
  userGroups: [devs]
",
    )
    .expect("well-formed");
    let dev = UserInfo::new("alice", ["devs"]);
    let bob = UserInfo::new("bob", Vec::<String>::new());
    assert_eq!(
        level(&policy, &bob, Method::GET, "/api/v1/namespaces/a/pods/p"),
        Level::Request
    );
    assert_eq!(
        level(&policy, &bob, Method::POST, "/api/v1/namespaces/a/pods/p/exec"),
        Level::Request
    );
    assert_eq!(
        level(&policy, &bob, Method::GET, "/api/v1/namespaces/a/pods/p/log"),
        Level::None
    );
    assert_eq!(
        level(&policy, &bob, Method::GET, "/api/v1/namespaces/b/pods/p"),
        Level::None
    );
    assert_eq!(level(&policy, &bob, Method::GET, "/logs/x"), Level::Metadata);
    assert_eq!(
        level(&policy, &dev, Method::GET, "/api/v1/nodes"),
        Level::RequestResponse
    );
    assert!(Policy::parse("kind: Policy").is_err());
    assert!(Policy::parse("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]").is_err());
}

#[test]
fn the_standard_policy_notes_writes_and_secrets() {
    let policy = Policy::standard();
    let user = UserInfo::admin();
    assert_eq!(
        level(&policy, &user, Method::POST, "/api/v1/namespaces/a/pods"),
        Level::Metadata
    );
    assert_eq!(
        level(&policy, &user, Method::GET, "/api/v1/namespaces/a/pods"),
        Level::None
    );
    assert_eq!(
        level(&policy, &user, Method::GET, "/api/v1/namespaces/a/secrets/s"),
        Level::Metadata
    );
    assert_eq!(
        level(
            &policy,
            &user,
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/a/leases/l"
        ),
        Level::None
    );
    assert_eq!(level(&policy, &user, Method::GET, "/healthz"), Level::None);
}

/// A sink that tests can wait on.
#[derive(Clone, Default)]
struct Sink(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .0
            .lock()
            .expect("no holder panics")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.1.notify_all();
        Ok(())
    }
}

#[test]
fn an_event_tells_who_really_did_what_and_never_a_secret() {
    let sink = Sink::default();
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Request}]";
    let log = AuditLog::start(Policy::parse(policy).expect("well-formed"), sink.clone());
    let at = jiff::Timestamp::from_second(1_767_225_600).expect("in range");
    let (admin, bob) = (UserInfo::admin(), UserInfo::new("bob", Vec::<String>::new()));
    let info = info(Method::PUT, "/api/v1/namespaces/a/secrets/s");
    log.log(&Audited {
        id: "id-1",
        stage: AuditStage::ResponseComplete,
        info: &info,
        uri: "/api/v1/namespaces/a/secrets/s?x=y",
        user: &bob,
        impersonator: Some(&admin),
        source: Some(([10, 0, 0, 1], 5).into()),
        user_agent: "kubectl",
        allowed: Some(true),
        code: 200,
        received: at,
        reached: at,
        request_body: br#"{"data":{"key":"c2VjcmV0"}}"#,
        response_body: &[],
    });
    let (bytes, written) = &*sink.0;
    let bytes = written
        .wait_while(bytes.lock().expect("no holder panics"), |bytes| {
            !bytes.ends_with(b"\n")
        })
        .expect("no holder panics");
    expect_test::expect![[r#"
        {"annotations":{"authorization.k8s.io/decision":"allow"},"apiVersion":"audit.k8s.io/v1","auditID":"id-1","impersonatedUser":{"groups":["system:authenticated"],"username":"bob"},"kind":"Event","level":"Request","objectRef":{"apiVersion":"v1","name":"s","namespace":"a","resource":"secrets"},"requestObject":{"omitted":true},"requestReceivedTimestamp":"2026-01-01T00:00:00.000000Z","requestURI":"/api/v1/namespaces/a/secrets/s?x=y","responseStatus":{"code":200,"metadata":{}},"sourceIPs":["10.0.0.1"],"stage":"ResponseComplete","stageTimestamp":"2026-01-01T00:00:00.000000Z","user":{"groups":["system:masters","system:authenticated"],"username":"kubernetes-admin"},"userAgent":"kubectl","verb":"update"}
    "#]]
    .assert_eq(std::str::from_utf8(&bytes).expect("text"));
}

#[test]
fn a_full_file_is_turned_over_and_old_ones_go() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("audit.log");
    let clock = mainstay_base::clock::FakeClock::new();
    let rotation = Rotation {
        max_bytes: 8,
        max_backups: 2,
    };
    let mut file = LogFile::open(&path, rotation, clock.clone()).expect("it can be made");
    for line in ["line 1\n", "line 2\n", "line 3\n", "line 4\n"] {
        file.write_all(line.as_bytes()).expect("it can be written");
        clock.advance(std::time::Duration::from_secs(1));
    }
    let entries = std::fs::read_dir(folder.path()).expect("it is there");
    let mut found: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).expect("text");
            format!("{} {text}", entry.file_name().to_string_lossy())
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "audit-2026-01-01T00-00-02.000.log line 2\n",
            "audit-2026-01-01T00-00-03.000.log line 3\n",
            "audit.log line 4\n"
        ]
    );
}
