//! Plans of pods as data.

use super::*;
use serde_json::json;

fn spec(policy: &str, init: serde_json::Value) -> PodSpec {
    serde_json::from_value(json!({
        "restartPolicy": policy, "initContainers": init,
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]
    }))
    .expect("a valid spec")
}

fn seen(name: &str, state: State, exit_code: i32) -> ContainerView {
    ContainerView {
        id: format!("id-{name}"),
        name: name.into(),
        sandbox_id: "s".into(),
        state,
        exit_code,
        ..Default::default()
    }
}

fn view(containers: Vec<ContainerView>) -> PodView {
    let sandbox = SandboxView {
        id: "s".into(),
        ready: true,
        ips: vec!["10.0.0.1".into()],
        ..Default::default()
    };
    PodView {
        sandboxes: vec![sandbox],
        containers,
    }
}

fn fine(_: &ContainerView) -> ProbeVerdict {
    ProbeVerdict {
        started: true,
        ready: true,
        ..Default::default()
    }
}

#[test]
fn a_new_pod_gets_a_sandbox_and_everything() {
    let actions = plan(&spec("Always", json!([])), &PodView::default(), fine);
    assert_eq!(
        (actions.create_sandbox, actions.to_start, actions.kill_pod),
        (Some(0), vec![0, 1], true)
    );
}

#[test]
fn app_containers_wait_for_init_containers() {
    let init = json!([{"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}]);
    let spec = spec("Always", init);
    let steps: Vec<(Vec<usize>, Vec<usize>)> = [
        vec![],
        vec![seen("i", State::Running, 0)],
        vec![seen("i", State::Exited, 0)],
        vec![seen("i", State::Exited, 0), seen("s", State::Running, 0)],
    ]
    .map(|c| plan(&spec, &view(c), fine))
    .map(|a| (a.init_to_start, a.to_start))
    .into();
    assert_eq!(
        steps,
        [
            (vec![0], vec![]),
            (vec![], vec![]),
            (vec![1], vec![]),
            (vec![], vec![0, 1])
        ]
    );
}

#[test]
fn restart_policy_decides_about_ended_containers() {
    let ended = || vec![seen("a", State::Exited, 0), seen("b", State::Exited, 1)];
    let starts = ["Always", "OnFailure", "Never"].map(|p| plan(&spec(p, json!([])), &view(ended()), fine));
    assert_eq!(
        starts.each_ref().map(|a| (a.to_start.clone(), a.kill_pod)),
        [(vec![0, 1], false), (vec![1], false), (vec![], true)]
    );
}

#[test]
fn a_failed_liveness_probe_kills_and_restarts_unless_never() {
    let running = || vec![seen("a", State::Running, 0), seen("b", State::Running, 0)];
    let sick = |c: &ContainerView| ProbeVerdict {
        liveness_failed: c.name == "a",
        started: true,
        ..Default::default()
    };
    let always = plan(&spec("Always", json!([])), &view(running()), sick);
    assert_eq!(
        (always.kill[0].message.as_str(), always.to_start),
        ("Container a failed liveness probe, will be restarted", vec![0])
    );
    let never = plan(&spec("Never", json!([])), &view(running()), sick);
    assert_eq!(never.to_start, Vec::<usize>::new());
}
