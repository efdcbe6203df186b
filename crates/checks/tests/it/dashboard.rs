//! The dashboard in headless Chromium over the in-memory control plane: the token, the inventory with live state, the
//! keyboard, assistive technology, and that what objects say is never run.

use std::net::SocketAddr;

use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use mainstay_api::{ComputeNode, DataCenter, Host, NodePool, Rack, Zone};
use mainstay_control::CancellationToken;
use mainstay_controlplane::ControlPlane;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::chromium::Page;

const TOKEN: &str = "0123456789abcdef";
/// What an attacker who may register a host would write where text is free.
const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>";

/// A dashboard over an inventory of one data centre, two racks and three hosts.
struct Dashboard {
    address: SocketAddr,
    client: Client,
    stop: CancellationToken,
    _plane: ControlPlane,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn create<K>(api: Api<K>, kind: &str, name: &str, spec: Value)
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let object: K = serde_json::from_value(object).unwrap_or_else(|error| panic!("{kind}: {error}"));
    let made = api.create(&PostParams::default(), &object).await;
    made.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
}

async fn serve_kinds(client: &Client) {
    let api: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(client.clone());
    for definition in mainstay_api::crds() {
        api.create(&PostParams::default(), &definition)
            .await
            .expect("a definition is accepted");
        let name = definition.name_any();
        while !established(&api.get(&name).await.expect("it was created")) {
            tokio::task::yield_now().await;
        }
    }
}

fn established(
    definition: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
) -> bool {
    let conditions = definition
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Established" && condition.status == "True")
}

impl Dashboard {
    async fn start() -> Self {
        let plane = mainstay_testkit::plane().await;
        let client = mainstay_testkit::admin(&plane);
        serve_kinds(&client).await;
        inventory(&client).await;
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        tokio::spawn(mainstay_dashboard::serve_on(
            listener,
            TOKEN,
            client.clone(),
            stop.clone(),
        ));
        Dashboard {
            address,
            client,
            stop,
            _plane: plane,
        }
    }

    /// Status and headers, then the beginning of the body, of one plain request.
    async fn get(&self, path: &str, cookie: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {cookie}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    async fn status<K>(&self, name: &str, status: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch)
            .await
            .expect("the status is written");
    }
}

async fn inventory(client: &Client) {
    let all = || client.clone();
    create(
        Api::<DataCenter>::all(all()),
        "DataCenter",
        "desk",
        json!({"region": "home"}),
    )
    .await;
    create(
        Api::<Zone>::all(all()),
        "Zone",
        "z1",
        json!({"dataCenter": "desk"}),
    )
    .await;
    for rack in ["r1", "r2"] {
        create(Api::<Rack>::all(all()), "Rack", rack, json!({"zone": "z1"})).await;
    }
    for (host, rack, sku) in [
        ("h1", "r1", "small"),
        ("h2", "r2", "small"),
        ("h3", "r2", HOSTILE),
    ] {
        let api = Api::<Host>::namespaced(all(), "default");
        create(
            api,
            "Host",
            host,
            json!({"rack": rack, "sku": sku, "provider": "local"}),
        )
        .await;
    }
    let pools = Api::<NodePool>::namespaced(all(), "default");
    let selector = json!({"matchLabels": {"mainstay.dev/sku": "small"}});
    create(
        pools,
        "NodePool",
        "demo-a",
        json!({"replicas": 0, "skuSelector": selector, "imageRef": {"name": "node"}}),
    )
    .await;
    let nodes = Api::<ComputeNode>::namespaced(all(), "default");
    create(
        nodes,
        "ComputeNode",
        "demo-a-1",
        json!({"hostRef": {"name": "h1"}}),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_without_the_token() {
    let dashboard = Dashboard::start().await;
    for path in [
        "/",
        "/events",
        "/view.json",
        "/app.js",
        "/?token=",
        "/?token=0123456789abcdee",
    ] {
        let answer = dashboard.get(path, "mainstay-session=wrong").await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
        assert!(
            answer.contains("content-security-policy: default-src 'none';"),
            "{path}: {answer}"
        );
        assert!(!answer.contains("desk"), "{path}: {answer}");
    }
    let entered = dashboard.get(&format!("/?token={TOKEN}"), "").await;
    assert!(entered.starts_with("HTTP/1.1 303 "), "{entered}");
    assert!(
        entered.contains(&format!("mainstay-session={TOKEN}; HttpOnly; SameSite=Strict")),
        "{entered}"
    );
    let page = dashboard.get("/", &format!("mainstay-session={TOKEN}")).await;
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert!(!page.contains("unsafe-"), "{page}");
    let document = dashboard
        .get("/view.json", &format!("a=b; mainstay-session={TOKEN}"))
        .await;
    assert!(document.contains("dashboard.mainstay.dev/v1"), "{document}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inventory_is_live_reachable_by_keyboard_and_never_run() {
    let dashboard = Dashboard::start().await;
    let mut page = Page::open().await;
    page.go(&format!("http://{}/?token={TOKEN}", dashboard.address))
        .await;
    shows_the_inventory(&mut page).await;
    follows_changes_without_reload(&mut page, &dashboard).await;
    is_used_by_keyboard(&mut page).await;
    is_told_to_assistive_technology(&mut page).await;
    runs_nothing_that_objects_say(&mut page).await;
    dashboard.stop.cancel();
    page.until("document.querySelector('#connection[data-lost]')")
        .await;
}

async fn shows_the_inventory(page: &mut Page) {
    page.until("document.querySelector('[data-rack=r1] [data-host=h1]')")
        .await;
    page.until("document.getElementById('connection').textContent === 'live'")
        .await;
    assert_eq!(
        page.value("location.search").await,
        "",
        "the token stays in the address"
    );
    assert_eq!(
        page.value("document.cookie").await,
        "",
        "scripts can read the token"
    );
    let racks = page
        .value("[...document.querySelectorAll('.rack')].map(r => r.querySelector('h3').textContent + '|' + [...r.querySelectorAll('[data-host]')].map(h => h.dataset.host))")
        .await;
    assert_eq!(racks, json!(["Rack r1 zone z1|h1", "Rack r2 zone z1|h2,h3"]));
    let heading = page
        .value("document.querySelector('#places h2').textContent")
        .await;
    assert_eq!(heading, "Data centre desk");
}

async fn follows_changes_without_reload(page: &mut Page, dashboard: &Dashboard) {
    page.value("window.marker = 1").await;
    page.value("document.getElementById('host-default-h1').open = true")
        .await;
    page.value("document.getElementById('host-default-h1-summary').focus()")
        .await;
    let consumer = json!({"kind": "ComputeNode", "name": "demo-a-1"});
    dashboard
        .status::<Host>(
            "h1",
            json!({"state": "Provisioned", "powerState": "On", "consumerRef": consumer}),
        )
        .await;
    dashboard
        .status::<Host>("h2", json!({"state": "Available"}))
        .await;
    page.until("document.querySelector('[data-host=h1]').textContent.includes('Provisioned: demo-a-1')")
        .await;
    page.until("document.querySelector('[data-pool=demo-a]').lastChild.textContent === '1'")
        .await;
    let probe = json!({
        "type": "ComputeNodeProbePassed", "status": "False", "reason": "ProbeFailed", "message": HOSTILE,
        "lastTransitionTime": "2026-01-01T03:02:20Z",
    });
    dashboard
        .status::<ComputeNode>("demo-a-1", json!({"conditions": [probe]}))
        .await;
    page.until("document.querySelector('[data-host=h1]').dataset.mark === 'bad'")
        .await;
    let verdict = page.value("document.getElementById('verdict').textContent").await;
    assert_eq!(
        verdict,
        "▲ Degraded since 2026-01-01T03:02:20Z: 2 of 3 hosts are well; not well: 1 in rack r1."
    );
    assert_eq!(page.value("window.marker").await, 1, "the page was loaded again");
    assert_eq!(
        page.value("document.getElementById('host-default-h1').open")
            .await,
        true
    );
    assert_eq!(
        page.value("document.activeElement.id").await,
        "host-default-h1-summary",
        "the focus was lost"
    );
}

async fn is_used_by_keyboard(page: &mut Page) {
    page.value("document.activeElement.blur(); window.scrollTo(0, 0)")
        .await;
    let mut reached = Vec::new();
    for _ in 0..8 {
        page.press("Tab", 9, "").await;
        let focused = page
            .value("document.activeElement.className || document.activeElement.id || document.activeElement.tagName")
            .await;
        reached.push(focused.as_str().unwrap_or_default().to_string());
    }
    for stop in ["skip", "filter", "host-default-h2-summary"] {
        assert!(
            reached.iter().any(|one| one == stop),
            "{stop} is not reached: {reached:?}"
        );
    }
    page.value("document.getElementById('host-default-h2-summary').focus()")
        .await;
    page.press("Enter", 13, "\r").await;
    page.until("document.getElementById('host-default-h2').open")
        .await;
    page.value("document.getElementById('filter').focus()").await;
    page.press("h", 72, "h").await;
    page.press("2", 50, "2").await;
    page.until(
        "document.querySelector('[data-host=h1]').hidden && !document.querySelector('[data-host=h2]').hidden",
    )
    .await;
    page.press("Backspace", 8, "").await;
    page.press("Backspace", 8, "").await;
    page.until("!document.querySelector('[data-host=h1]').hidden")
        .await;
}

async fn is_told_to_assistive_technology(page: &mut Page) {
    let tree = page.accessible().await;
    let has = |wanted: &str| tree.iter().any(|node| node.starts_with(wanted));
    for wanted in [
        "heading: Mainstay",
        "main: ",
        "searchbox: Show hosts with",
        "heading: Data centre desk",
        "heading: Rack r1",
        "region: Machines",
        "link: Skip to machines",
        "columnheader: Spare hosts",
        "rowheader: demo-a",
    ] {
        assert!(has(wanted), "{wanted} is missing: {tree:#?}");
    }
    assert_eq!(
        tree.iter().filter(|node| node.starts_with("status: ")).count(),
        2,
        "{tree:#?}"
    );
    // What can be operated has a name.
    for role in ["link", "button", "searchbox", "DisclosureTriangle"] {
        assert!(
            !tree.contains(&format!("{role}: ")),
            "a {role} without a name: {tree:#?}"
        );
    }
    assert_eq!(page.value("document.documentElement.lang").await, "en");
}

async fn runs_nothing_that_objects_say(page: &mut Page) {
    let shown = page
        .value("document.querySelector('[data-host=h3]').textContent")
        .await;
    assert!(shown.as_str().unwrap_or_default().contains(HOSTILE), "{shown}");
    assert_eq!(
        page.value("document.querySelectorAll('#live img, #live script').length")
            .await,
        0
    );
    assert_eq!(page.value("typeof window.hacked").await, "undefined");
    assert_eq!(page.complaints, Vec::<String>::new());
    // Should an escape be missed one day, the policy still stands.
    page.value("{ const s = document.createElement('script'); s.textContent = 'window.inline = 1'; document.body.append(s) }")
        .await;
    assert_eq!(page.value("typeof window.inline").await, "undefined");
}
