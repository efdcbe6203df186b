//! The background process that `up` starts: management plane, providers, images, fleet, dashboard.

mod controllers;
mod dns;
mod images;
mod planes;
mod routes;
pub mod state;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use mainstay_access::UserInfo;
use mainstay_base::clock::{SharedClock, SystemClock};
use mainstay_base::error::chain;
use mainstay_control::CancellationToken;
use mainstay_controlplane::{Config, ControlPlane};
use mainstay_fleet::admission::FitsInventory;
use mainstay_fleet::validate::set::Surroundings;
use mainstay_fleet::{FleetConfig, Providers, SocketProber};
use mainstay_host::ledger::Ledger;
use mainstay_os::Store;
use mainstay_provider::local::{self, LocalProvider};
use mainstay_store::{EmbeddedEngine, Engine};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ManageArgs;
use crate::outcome::{Code, Failure, Outcome};
use state::{Layout, Running};

/// Field manager of what this process applies by itself.
const FIELD_MANAGER: &str = "mainstay";
/// The provider of machines on this computer.
const LOCAL: &str = "local";

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &ManageArgs) -> Outcome {
    let runtime = crate::small::runtime().map_err(failed)?;
    runtime.block_on(manage(args))
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::new("MS-SRV-0001", chain(&error))
}

async fn manage(args: &ManageArgs) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    crate::small::keep_small();
    let layout = Layout::new(&args.data.data_dir);
    layout.make().map_err(failed)?;
    let (clock, stop) = (SystemClock::shared(), CancellationToken::new());
    let engine: Arc<dyn Engine> =
        Arc::new(EmbeddedEngine::open(&layout.store(), clock.clone()).map_err(failed)?);
    let token = mainstay_base::ids::new_uid();
    // Said as soon as the store is ours: another `up` or `down` then knows whom to wait for, or to end.
    announce(args, &layout, &token, false)?;
    let (gateway, prefix) = bridge(&args.bridge)?;
    let plane = management_plane(args, &layout, engine.clone(), gateway, clock.clone()).await?;
    controllers::start(&plane, None, None, clock.clone(), &stop)
        .map_err(|problem| Failure::new("MS-SRV-0001", problem))?;
    let kinds = mainstay_api::crds().into_iter().chain(mainstay_capi::crds());
    install_kinds(&plane.client(UserInfo::admin()), kinds)
        .await
        .map_err(|problem| Failure::new("MS-SRV-0001", problem))?;
    let store = Store::new(&layout.os());
    let provider = local_provider(&layout, &store, (gateway, prefix), clock.clone()).await?;
    let images = Arc::new(images::Images {
        store,
        binary: own_binary()?,
        provider: provider.clone(),
    });
    let planes = Arc::new(planes::Planes {
        engine,
        folder: layout.planes(),
        address: IpAddr::V4(gateway),
        clock: clock.clone(),
        management: plane.client(UserInfo::component("system:mainstay:autoscaler")),
        routes: Arc::new(routes::LocalRoutes(provider.clone())),
        stop: stop.clone(),
        running: Default::default(),
    });
    let providers: Providers = [(LOCAL.to_string(), Arc::new(provider) as _)].into();
    let fleet = FleetConfig {
        client: plane.client(UserInfo::component("system:mainstay:fleet")),
        clock: clock.clone(),
        providers,
        planes: planes.clone(),
        images,
        prober: Arc::new(SocketProber),
        access: Arc::default(),
        seed: fastrand::u64(..),
        shutdown: stop.clone(),
    };
    let _fleet = mainstay_fleet::start(fleet);
    let dashboard = start_dashboard(args, &token, &plane, &stop);
    let kubeconfig = admin_kubeconfig(&plane).map_err(|problem| Failure::new("MS-SRV-0001", problem))?;
    mainstay_pki::write_private(&layout.kubeconfig(), &kubeconfig).map_err(failed)?;
    announce(args, &layout, &token, true)?;
    tracing::info!(listen = %args.listen, "management plane serves");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; machines go on running");
    stop.cancel();
    planes.stop_all().await;
    dashboard.abort();
    plane.stop().await;
    layout.forget_running();
    Ok(Code::Ok)
}

fn start_dashboard(
    args: &ManageArgs,
    token: &str,
    plane: &ControlPlane,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let client = plane.client(UserInfo::component("system:mainstay:dashboard"));
    let (address, token, stop) = (args.dashboard, token.to_string(), stop.clone());
    tokio::spawn(async move {
        if let Err(error) = mainstay_dashboard::serve(address, &token, client, stop).await {
            tracing::error!(problem = chain(&error), "dashboard ended");
        }
    })
}

/// The kubeconfig of an administrator, a member of system:masters, for people.
fn admin_kubeconfig(plane: &ControlPlane) -> Result<String, String> {
    let groups = ["system:masters".to_string()];
    plane
        .kubeconfig_for("kubernetes-admin", &groups)
        .map_err(|error| chain(&error))
}

/// The program that becomes the agent of images: this one, by its path.
fn own_binary() -> Result<std::path::PathBuf, Failure> {
    std::env::current_exe().map_err(failed)
}

/// Reads the bridge's subnet; the manager has its first address.
pub fn bridge(cidr: &str) -> Result<(Ipv4Addr, u8), Failure> {
    let wrong = || {
        Failure::new(
            "MS-CFG-0003",
            format!("--bridge: {cidr:?} is not an IPv4 network such as 10.89.0.0/24"),
        )
    };
    let (address, prefix) = cidr.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix
        .parse()
        .ok()
        .filter(|prefix| (16..=28).contains(prefix))
        .ok_or_else(wrong)?;
    let network = u32::from(address) & (u32::MAX << (32 - prefix));
    if network != u32::from(address) {
        return Err(wrong());
    }
    Ok((Ipv4Addr::from(network + 1), prefix))
}

/// What clusters are checked against besides objects: the providers wired below, and the machines' network.
pub fn surroundings(bridge_cidr: &str) -> Result<Surroundings, Failure> {
    let (gateway, prefix) = bridge(bridge_cidr)?;
    let network = ipnet::IpNet::new(IpAddr::V4(gateway), prefix)
        .map_err(|error| Failure::new("MS-CFG-0003", format!("--bridge: {error}")))?;
    Ok(Surroundings {
        providers: vec![LOCAL.into()],
        reserved: vec![("the machines' network (--bridge)".into(), network.trunc())],
    })
}

async fn management_plane(
    args: &ManageArgs,
    layout: &Layout,
    engine: Arc<dyn Engine>,
    gateway: Ipv4Addr,
    clock: SharedClock,
) -> Result<ControlPlane, Failure> {
    let mut config = Config::new(engine, "management");
    config.name = "mainstay".into();
    config.directory = Some(layout.pki());
    config.admit = vec![Arc::new(FitsInventory::new(surroundings(&args.bridge)?))];
    config.listen = Some(args.listen);
    config.serving_names = vec![
        "localhost".into(),
        args.listen.ip().to_string(),
        gateway.to_string(),
    ];
    ControlPlane::start(config, clock).await.map_err(failed)
}

/// Applies definitions of kinds.
async fn install_kinds(
    client: &Client,
    definitions: impl IntoIterator<Item = CustomResourceDefinition>,
) -> Result<(), String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    for definition in definitions {
        let name = definition.name_any();
        let applied = api.patch(&name, &params, &Patch::Apply(&definition)).await;
        applied.map_err(|error| format!("kind {name}: {}", chain(&error)))?;
    }
    Ok(())
}

async fn local_provider(
    layout: &Layout,
    store: &Store,
    bridge: (Ipv4Addr, u8),
    clock: SharedClock,
) -> Result<LocalProvider, Failure> {
    let images = layout.container_images();
    let busybox = Path::new("/usr/bin/busybox");
    mainstay_os::images::make(busybox, &images).map_err(failed)?;
    let trees = store.clone();
    let config = local::Config {
        folder: layout.machines(),
        instance: instance(&layout.root),
        bridge,
        uplink: true,
        dns: dns::servers_for_machines(),
        images,
        trees: Arc::new(move |commit| trees.deploy(commit).map_err(|error| chain(&error))),
        ledger: Arc::new(Ledger::open(&layout.ledger()).map_err(failed)?),
        clock,
    };
    LocalProvider::open(config).await.map_err(failed)
}

/// Six letters that tell apart installations on one computer, by their data directory.
fn instance(root: &Path) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in root.as_os_str().as_encoded_bytes() {
        hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    format!("m{:05x}", hash & 0xf_ffff)
}

/// Writes down who runs, and whether it serves already.
fn announce(args: &ManageArgs, layout: &Layout, token: &str, serving: bool) -> Result<(), Failure> {
    let running = Running {
        process: mainstay_host::process::ProcessId::of(std::process::id())
            .ok_or_else(|| Failure::new("MS-SRV-0001", "this process is not in /proc"))?,
        listen: args.listen,
        dashboard: format!("http://{}/?token={token}", args.dashboard),
        serving,
    };
    running.write(layout).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_is_a_network_and_the_manager_has_its_first_address() {
        assert_eq!(
            bridge("10.89.0.0/24").ok(),
            Some((Ipv4Addr::new(10, 89, 0, 1), 24))
        );
        for wrong in ["10.89.0.0", "10.89.0.7/24", "fd00::/64", "10.0.0.0/8"] {
            assert_eq!(
                bridge(wrong).map_err(|failure| failure.id),
                Err("MS-CFG-0003"),
                "{wrong}"
            );
        }
    }
}
