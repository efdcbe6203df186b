//! Drives headless Chromium over its DevTools protocol: open a page, evaluate, press keys.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::tools::Running;

/// How long a page may take to become what is awaited.
const LIMIT: Duration = Duration::from_secs(30);

/// One browser with one page.
pub struct Page {
    socket: WebSocketStream<TcpStream>,
    session: Option<String>,
    calls: u64,
    /// What the page complained about: exceptions, errors in the log, dialogs.
    pub complaints: Vec<String>,
    _browser: Running,
    _profile: tempfile::TempDir,
}

fn start(profile: &std::path::Path) -> (Running, String) {
    let mut child = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--remote-debugging-port=0",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg("about:blank")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chromium is a set-up package");
    let errors = child.stderr.take().expect("it is piped");
    let browser = Running(child);
    let mut said = String::new();
    let mut lines = BufReader::new(errors);
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line).expect("the browser's errors are text");
        assert!(read > 0, "chromium ended: {said}");
        if let Some(url) = line.trim().strip_prefix("DevTools listening on ") {
            let url = url.to_string();
            // A full pipe would stop the browser.
            std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
            return (browser, url);
        }
        said += &line;
    }
}

impl Page {
    /// Starts a browser with an empty page.
    pub async fn open() -> Self {
        let profile = tempfile::tempdir().expect("a folder for the test");
        let (browser, url) = start(profile.path());
        let address = url
            .strip_prefix("ws://")
            .and_then(|rest| rest.split('/').next())
            .expect("a ws URL");
        let stream = TcpStream::connect(address).await.expect("the browser listens");
        let (socket, _) = tokio_tungstenite::client_async(&url, stream)
            .await
            .expect("the browser speaks WebSocket");
        let mut page = Page {
            socket,
            session: None,
            calls: 0,
            complaints: Vec::new(),
            _browser: browser,
            _profile: profile,
        };
        let target = page
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await;
        let attached = page
            .call(
                "Target.attachToTarget",
                json!({"targetId": target["targetId"], "flatten": true}),
            )
            .await;
        page.session = attached["sessionId"].as_str().map(String::from);
        for domain in [
            "Page.enable",
            "Runtime.enable",
            "Log.enable",
            "Accessibility.enable",
        ] {
            page.call(domain, json!({})).await;
        }
        page
    }

    /// One call of the protocol.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut request = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            request["sessionId"] = session.as_str().into();
        }
        self.socket
            .send(Message::text(request.to_string()))
            .await
            .expect("the browser reads");
        loop {
            let message = self.socket.next().await.expect("the browser is there");
            let Message::Text(text) = message.expect("the browser speaks") else {
                continue;
            };
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" => {
                self.complaints.push(params.to_string())
            }
            "Log.entryAdded" if params["entry"]["level"] == "error" => {
                self.complaints.push(params["entry"]["text"].to_string());
            }
            _ => {}
        }
    }

    /// Goes to an address.
    pub async fn go(&mut self, url: &str) {
        let gone = self.call("Page.navigate", json!({"url": url})).await;
        assert!(gone["errorText"].is_null(), "{url}: {gone}");
    }

    /// The value of an expression.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut done = self.call("Runtime.evaluate", params).await;
        assert!(done["exceptionDetails"].is_null(), "{expression}: {done}");
        done["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.value(&format!("!!({expression})")).await != true {
            if start.elapsed() > LIMIT {
                let page = self.value("document.documentElement.outerHTML").await;
                panic!("not within {LIMIT:?}: {expression}\n{page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses and releases a key: its name, its code for old scripts, the text it types.
    pub async fn press(&mut self, key: &str, code: u32, text: &str) {
        let mut event = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone()).await;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event).await;
    }

    /// Role and name of everything that assistive technology sees, `role: name` each.
    pub async fn accessible(&mut self) -> Vec<String> {
        let tree = self.call("Accessibility.getFullAXTree", json!({})).await;
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        nodes
            .iter()
            .filter(|node| node["ignored"] != true)
            .map(|node| {
                let text = |key: &str| node[key]["value"].as_str().unwrap_or_default().to_string();
                format!("{}: {}", text("role"), text("name"))
            })
            .collect()
    }
}
