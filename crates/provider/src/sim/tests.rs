//! What repair and fleet rely on in the simulated provider.

use mainstay_base::clock::FakeClock;

use super::*;
use crate::Sku;

fn setup() -> (Arc<FakeClock>, SimProvider, HostId) {
    let clock = FakeClock::new();
    let sim = SimProvider::new(clock.clone());
    (clock, sim, HostId::new("default", "h1"))
}

fn request(id: &str, host: &HostId, incarnation: u64) -> ProvisionRequest {
    ProvisionRequest {
        request: RequestId(id.to_owned()),
        host: HostSpec {
            id: host.clone(),
            sku: Sku::default(),
            settings: BTreeMap::new(),
        },
        machine_name: "demo-a-1".to_owned(),
        commit: "c1".to_owned(),
        machine_data: "{}".to_owned(),
        incarnation,
    }
}

async fn provisioned() -> (Arc<FakeClock>, SimProvider, HostId) {
    let (clock, sim, host) = setup();
    sim.provision(request("p1", &host, 1)).await.unwrap();
    clock.advance(Duration::from_secs(90));
    (clock, sim, host)
}

async fn power(
    sim: &SimProvider,
    clock: &FakeClock,
    host: &HostId,
    operation: PowerOperation,
    id: &str,
) -> TaskState {
    sim.power(host, operation, &RequestId(id.to_owned()))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(20));
    sim.task(&RequestId(id.to_owned())).await.unwrap().state
}

#[tokio::test]
async fn a_repeated_request_gives_the_same_task_and_ends_by_the_clock() {
    let (clock, sim, host) = setup();
    let first = sim.provision(request("p1", &host, 1)).await.unwrap();
    clock.advance(Duration::from_secs(89));
    assert_eq!(sim.provision(request("p1", &host, 1)).await.unwrap(), first);
    assert_eq!(sim.power_state(&host).await.unwrap(), PowerState::Off);
    clock.advance(Duration::from_secs(1));
    assert_eq!(sim.task(&first.id).await.unwrap().state, TaskState::Done);
    assert_eq!(sim.boot_identity(&host).await.unwrap().unwrap().commit, "c1");
    assert!(sim.answers(&host));
}

#[tokio::test]
async fn an_older_incarnation_is_a_conflict() {
    let (_, sim, host) = provisioned().await;
    sim.provision(request("p2", &host, 2)).await.unwrap();
    let error = sim.provision(request("p3", &host, 1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot provision on host default/h1: incarnation 1 is older than 2"
    );
}

#[tokio::test]
async fn each_fault_is_cured_by_its_own_rung() {
    let (clock, sim, host) = provisioned().await;
    sim.inject(&host, Fault::Hang);
    assert!(!sim.answers(&host));
    assert_eq!(sim.power_state(&host).await.unwrap(), PowerState::On);
    let before = sim.boot_identity(&host).await.unwrap();
    power(&sim, &clock, &host, PowerOperation::Cycle, "r1").await;
    assert!(sim.answers(&host));
    assert_ne!(sim.boot_identity(&host).await.unwrap(), before);

    sim.inject(&host, Fault::Corruption);
    power(&sim, &clock, &host, PowerOperation::Cycle, "r2").await;
    assert!(!sim.answers(&host));
    sim.provision(request("p2", &host, 2)).await.unwrap();
    clock.advance(Duration::from_secs(90));
    assert!(sim.answers(&host));

    sim.inject(&host, Fault::Hardware);
    let state = power(&sim, &clock, &host, PowerOperation::Reset, "r3").await;
    let TaskState::Failed {
        evidence: Some(evidence),
        ..
    } = state
    else {
        panic!("{state:?}")
    };
    assert!(evidence.contains("memory module"));
}

#[tokio::test]
async fn a_controller_that_does_not_answer_proves_nothing() {
    let (_, sim, host) = provisioned().await;
    sim.inject(&host, Fault::Controller);
    assert_eq!(sim.power_state(&host).await.unwrap(), PowerState::Unknown);
    let error = sim
        .power(&host, PowerOperation::Off, &RequestId("r1".to_owned()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Transient { .. }));
}

#[tokio::test]
async fn a_bad_image_falls_back_and_says_so() {
    let (clock, sim, host) = provisioned().await;
    sim.mark_bad_commit("c2");
    for (commit, id) in [("c2", "s1"), ("c3", "s2")] {
        sim.stage_image(&host, commit, &RequestId(id.to_owned()))
            .await
            .unwrap();
        clock.advance(Duration::from_secs(30));
        power(&sim, &clock, &host, PowerOperation::Cycle, &format!("{id}-r")).await;
    }
    let image = sim.machine(&host).await.unwrap().unwrap().image;
    assert_eq!(
        (image.booted.as_str(), image.previous.as_deref(), image.tries_left),
        ("c3", Some("c1"), 2)
    );
    assert_eq!(
        image.last_failure.as_deref(),
        Some("commit c2 was not confirmed good in 2 starts")
    );
    assert_eq!(sim.confirm_image(&host).await.unwrap().tries_left, 0);
}

#[tokio::test]
async fn an_injected_failure_hits_the_next_call_only() {
    let (_, sim, host) = setup();
    let error = Error::Transient {
        operation: "provision",
        host: host.to_string(),
        message: "busy".to_owned(),
    };
    sim.fail_next(&host, error.clone());
    assert_eq!(sim.provision(request("p1", &host, 1)).await.unwrap_err(), error);
    assert!(sim.provision(request("p1", &host, 1)).await.is_ok());
}
