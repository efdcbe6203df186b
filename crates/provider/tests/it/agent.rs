//! The smallest program that a machine's image can have as `/usr/bin/mainstay`: its init, and services that wait.
//! With `manager` it is a manager that provisions one machine, for tests that kill it.

use std::path::PathBuf;
use std::sync::Arc;

use mainstay_base::clock::SystemClock;
use mainstay_host::ledger::Ledger;
use mainstay_provider::local::{Config, LocalProvider};
use mainstay_provider::{Provider, ProvisionRequest};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "init" => {
            std::process::exit(mainstay_provider::local::init::run(rest))
        }
        Some((first, rest)) if first == "manager" => manage(rest),
        _ => wait(),
    }
}

fn wait() -> ! {
    loop {
        std::thread::park();
    }
}

/// `manager FOLDER INSTANCE IMAGES TREE REQUEST`: starts provisioning and waits for its own end.
fn manage(arguments: &[String]) {
    let [folder, instance, images, tree, request] = arguments else {
        panic!("five arguments")
    };
    let folder = PathBuf::from(folder);
    let tree = PathBuf::from(tree);
    let config = Config {
        ledger: Arc::new(Ledger::open(&folder.join("ledger.jsonl")).expect("the ledger opens")),
        folder,
        instance: instance.clone(),
        bridge: ([10, 213, 88, 1].into(), 24),
        uplink: false,
        dns: Vec::new(),
        images: images.into(),
        trees: Arc::new(move |_| Ok(tree.clone())),
        clock: SystemClock::shared(),
    };
    let request: ProvisionRequest = serde_json::from_str(request).expect("a request");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let provider = LocalProvider::open(config).await.expect("the provider opens");
        provider.provision(request).await.expect("the request is taken");
        std::future::pending::<()>().await
    })
}
