//! One pod's worker: looks at the runtime, plans, acts, reports; again at every change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use mainstay_control::events::EventKind;
use mainstay_nodepolicy::pods::grace;
use mainstay_nodepolicy::resize;

use super::allocations::Allocation;
use super::conditions::Verdict;
use super::create::{StartContext, make_cgroup, make_sandbox, next_attempt};
use super::images::{PullBackoff, Waiting};
use super::inbox::Order;
pub use super::inbox::{End, Inbox};
use super::observe::{EndedCache, observe, observe_begun};
use super::status::{self, Failure, ephemeral_as_container};
use super::status_writer::StatusQueue;
use super::terminate;
use super::turn::Turn;
use crate::context::Shared;
use crate::fetch::has_changing_content;
use crate::plan::{Actions, ContainerView, PodView, ProbeVerdict, SandboxView, State, plan};
use crate::podspec::{self, backoff::RestartBackoff};
use crate::probes::Prober;
use crate::volumes;

/// Longest time without a look, should a change ever be missed; what changes in the runtime its watcher notices.
const RESYNC: Duration = Duration::from_secs(300);
/// Wait after something failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Wait before a resize that could not be carried out is tried again.
const AFTER_FAILED_RESIZE: Duration = Duration::from_secs(10);
/// A pod that runs sooner is not told of before.
const BEGINNING: Duration = Duration::from_millis(300);
/// How often changing volume content is looked at.
const REFRESH: Duration = Duration::from_secs(60);

enum Next {
    Look(Duration),
    /// The same, with volume content kept fresh until then.
    Refresh(Duration),
    /// Nothing to do until something changes.
    Rest,
    Finished,
}

/// What carrying out a plan has come to.
struct Done {
    /// There is more to do at once: the next init container, or one that has already ended.
    again: bool,
    /// The pod's first sandbox with the ids of the containers started in it.
    begun: Option<(SandboxView, Vec<String>)>,
}

/// A pod's worker.
pub struct Worker {
    shared: Arc<Shared>,
    queue: Arc<StatusQueue>,
    inbox: Arc<Inbox>,
    ended: EndedCache,
    restarts: RestartBackoff,
    pulls: PullBackoff,
    prober: Prober,
    waiting: HashMap<String, Waiting>,
    messages: HashMap<String, String>,
    /// Shared with the queue that writes it.
    status: Option<Arc<PodStatus>>,
    resources_given_back: bool,
    resizing: bool,
    ends_counted: HashMap<String, i64>,
    /// When the node first saw the pod.
    seen_at: Duration,
    /// Of the order that was last acted on.
    version: Option<u64>,
}

impl Worker {
    /// Makes a worker.
    pub fn new(shared: Arc<Shared>, queue: Arc<StatusQueue>, inbox: Arc<Inbox>) -> Box<Self> {
        Box::new(Worker {
            seen_at: shared.tally.now(),
            version: None,
            shared,
            queue,
            inbox,
            ended: EndedCache::default(),
            restarts: RestartBackoff::default(),
            pulls: PullBackoff::default(),
            prober: Prober::default(),
            waiting: HashMap::new(),
            messages: HashMap::new(),
            status: None,
            resources_given_back: false,
            resizing: false,
            ends_counted: HashMap::new(),
        })
    }

    /// Works until nothing of the pod is left, from when others have ended that make room for it. Boxed: the task of a pod at
    /// rest is small.
    pub async fn run(mut self: Box<Self>, after: Vec<Arc<Inbox>>) {
        for victim in after {
            victim.has_ended().await;
        }
        let inbox = self.inbox.clone();
        let tally = self.shared.tally.clone();
        tally.worker_starts.observe([], tally.since(self.seen_at));
        loop {
            let order = inbox.order();
            let (occasion, begun) = (self.occasion(&order), tally.now());
            let next = tokio::select! {
                biased;
                // A pod that is to end does not wait for a pull or a start under way.
                () = inbox.ending.notified(), if order.end.is_none() => continue,
                // Boxed: a pod at rest does not keep the memory that a step takes.
                next = Box::pin(self.step(&order)) => next,
            };
            let occasion = if matches!(next, Next::Finished) {
                "terminated"
            } else {
                occasion
            };
            tally.steps.observe([occasion.into()], tally.since(begun));
            let (pause, refresh) = match next {
                Next::Finished => return,
                Next::Look(pause) => (pause, false),
                Next::Refresh(pause) => (pause, true),
                Next::Rest => (RESYNC * 10, false),
            };
            // A pod at rest keeps no older version of itself.
            drop(order);
            tokio::select! {
                () = inbox.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.refresh(), if refresh => {}
            }
        }
    }

    /// Why a step is taken, in the kubelet's words.
    fn occasion(&mut self, order: &Order) -> &'static str {
        match self.version.replace(order.version) {
            _ if order.end.is_some() => "kill",
            None => "create",
            Some(before) if before != order.version => "update",
            Some(_) => "sync",
        }
    }

    async fn step(&mut self, order: &Order) -> Next {
        let pod = &self.shared.allocations.given(&order.pod);
        let view = match observe(&self.shared.cri, podspec::uid(pod), &mut self.ended).await {
            Ok(view) => view,
            Err(error) => {
                tracing::debug!(
                    pod = podspec::name(pod),
                    error = error.message(),
                    "could not look at a pod"
                );
                return Next::Look(AFTER_FAILURE);
            }
        };
        self.read_messages(&view);
        match &order.end {
            Some(end) => self.finish(pod, &view, end).await,
            None if podspec::is_over(pod) => self.keep_over(pod, &view).await,
            None => self.keep_running(pod, view).await,
        }
    }

    /// Makes sure that nothing of a pod runs whose phase is final.
    async fn keep_over(&mut self, pod: &Arc<Pod>, view: &PodView) -> Next {
        self.prober.retain(&self.shared, |_| false);
        if view.running().next().is_some() || view.sandboxes.iter().any(|s| s.ready) {
            let grace = terminate::grace(pod, None);
            if terminate::stop_pod(&self.shared, pod, view, grace).await.is_err() {
                return Next::Look(AFTER_FAILURE);
            }
        }
        self.give_back(pod);
        Next::Rest
    }

    fn give_back(&mut self, pod: &Pod) {
        if self.resources_given_back {
            return;
        }
        match terminate::release(&self.shared, pod) {
            Ok(()) => self.resources_given_back = true,
            Err(error) => {
                tracing::warn!(
                    pod = podspec::name(pod),
                    error,
                    "could not give back a pod's resources"
                );
            }
        }
    }

    async fn finish(&mut self, pod: &Arc<Pod>, view: &PodView, end: &End) -> Next {
        let limit = match end {
            End::Failed { grace_seconds, .. } => *grace_seconds,
            _ => None,
        };
        let running = view.running().next().is_some();
        self.prober
            .retain(&self.shared, |id| running && view.running().any(|c| c.id == id));
        if running {
            self.report(pod, view, false, end);
        }
        let grace = terminate::grace(pod, limit);
        if let Err(error) = terminate::stop_pod(&self.shared, pod, view, grace).await {
            tracing::warn!(pod = podspec::name(pod), error, "could not stop a pod");
            return Next::Look(AFTER_FAILURE);
        }
        let Ok(view) = observe(&self.shared.cri, podspec::uid(pod), &mut self.ended).await else {
            return Next::Look(AFTER_FAILURE);
        };
        if view.running().next().is_some() {
            return Next::Look(Duration::from_millis(200));
        }
        // Told once: its containers may be removed before its object is, and a later look finds less.
        if !self.inbox.has_finished() {
            self.read_messages(&view);
            self.report(pod, &view, true, end);
            self.inbox.finished.send_replace(true);
        }
        if matches!(end, End::Failed { .. }) {
            self.give_back(pod);
            return Next::Rest;
        }
        if let Err(error) = terminate::remove_pod(&self.shared, pod, &view, true).await {
            tracing::warn!(pod = podspec::name(pod), error, "could not remove a pod");
            return Next::Look(AFTER_FAILURE);
        }
        self.prober.retain(&self.shared, |_| false);
        match end {
            End::Deleted if !podspec::is_static(pod) => {
                let status = self.status.clone().unwrap_or_default();
                self.queue.put(pod, status, true);
                // The object's end arrives as `Gone`; until then the request is repeated now and then.
                Next::Look(Duration::from_secs(10))
            }
            _ => {
                self.shared.allocations.forget(podspec::uid(pod));
                Next::Finished
            }
        }
    }

    fn read_messages(&mut self, view: &PodView) {
        for container in view.containers.iter().filter(|c| c.state == State::Exited) {
            if !self.messages.contains_key(&container.id) {
                let text = status::message_of(container).unwrap_or_default();
                self.messages.insert(container.id.clone(), text);
            }
        }
        self.messages
            .retain(|id, _| view.containers.iter().any(|c| c.id == *id));
    }

    fn report(&mut self, pod: &Arc<Pod>, view: &PodView, ended: bool, end: &End) {
        let failure = match end {
            End::Failed {
                reason,
                message,
                disruption,
                ..
            } if ended => Some(Failure {
                reason,
                message,
                disruption: disruption.as_deref(),
            }),
            _ => None,
        };
        self.write_status(pod, view, ended, failure);
    }

    fn write_status(&mut self, pod: &Arc<Pod>, view: &PodView, ended: bool, failure: Option<Failure<'_>>) {
        let status = self.build_status(pod, view, ended, failure);
        self.queue.put(pod, status, false);
    }

    fn build_status(
        &mut self,
        pod: &Arc<Pod>,
        view: &PodView,
        ended: bool,
        failure: Option<Failure<'_>>,
    ) -> Arc<PodStatus> {
        let allocation = self.shared.allocations.of(podspec::uid(pod));
        let resize = match ended {
            true => Vec::new(),
            false => self.resize_conditions(pod, view, &allocation),
        };
        let verdicts = &self.shared.verdicts;
        let runtime = self.shared.health.known().version;
        let api_status = pod.status.clone().unwrap_or_default();
        let before = match &self.status {
            // Conditions of other writers (readiness gates) come from the API.
            Some(own) => PodStatus {
                conditions: merged(own, &api_status),
                ..PodStatus::clone(own)
            },
            None => api_status,
        };
        let status = status::build(&status::Input {
            pod,
            view,
            verdict: &|seen: &ContainerView, container: &Container| verdicts.of(&seen.id, container),
            waiting: &self.waiting,
            messages: &self.messages,
            runtime: runtime.split("://").next().unwrap_or("containerd"),
            host_ips: &self.shared.host_ips,
            ended,
            failure,
            actual: &allocation.actual,
            resize,
            before: &before,
            now: self.shared.clock.now(),
        });
        let runs = |status: &PodStatus| status.phase.as_deref() == Some("Running");
        if runs(&status) && !runs(&before) {
            let tally = &self.shared.tally;
            tally.pod_starts.observe([], tally.since(self.seen_at));
        }
        let status = Arc::new(status);
        self.status = Some(status.clone());
        status
    }

    /// The usual case: bring the runtime to what the spec says.
    async fn keep_running(&mut self, pod: &Arc<Pod>, view: PodView) -> Next {
        let Some(spec) = pod.spec.as_ref() else {
            return Next::Rest;
        };
        let left = grace::time_to_run(pod, self.status.as_deref(), self.shared.clock.now());
        if left == Some(Duration::ZERO) && !self.inbox.has_finished() {
            return self.overdue(pod);
        }
        self.watch_probes(pod, spec, &view);
        let mut actions = {
            let verdicts = &self.shared.verdicts;
            plan(spec, &view, |seen| {
                let container = find(spec, &seen.name);
                container.map_or(ProbeVerdict::default(), |c| verdicts.of(&seen.id, &c))
            })
        };
        if actions.kill_pod && actions.create_sandbox.is_none() {
            return self.complete(pod, &view).await;
        }
        let actual = self.shared.allocations.of(podspec::uid(pod)).actual;
        let updates = resize::plan(spec, &view, &actual, &mut actions);
        let (actions, wait) = self.hold_back(pod, spec, &view, actions);
        let mut wait = wait.into_iter().chain(left).min();
        let status = self.build_status(pod, &view, false, None);
        let begins = view.containers.is_empty() && actions.create_sandbox.is_some();
        if !begins {
            self.queue.put(pod, status.clone(), false);
        }
        if !updates.is_empty() {
            if !self.resize(pod, &updates).await {
                wait = Some(wait.map_or(AFTER_FAILED_RESIZE, |w| w.min(AFTER_FAILED_RESIZE)));
            }
            self.write_status(pod, &view, false, None);
        }
        if actions.is_empty() {
            terminate::collect_garbage(&self.shared, &view).await;
            let pause = self.soonest(wait);
            return match has_changing_content(spec) {
                true => Next::Refresh(pause),
                false => Next::Look(pause),
            };
        }
        let queue = self.queue.clone();
        let result = {
            let apply = self.apply(pod, spec, &view, &actions);
            tokio::pin!(apply);
            tokio::select! {
                result = &mut apply => result,
                // What is over in a moment nobody needs to know.
                () = tokio::time::sleep(BEGINNING), if begins => {
                    queue.put(pod, status, false);
                    apply.await
                }
            }
        };
        let cri = &self.shared.cri;
        let seen = match &result {
            Ok(Done {
                begun: Some((sandbox, ids)),
                ..
            }) => observe_begun(cri, sandbox.clone(), ids).await,
            _ => observe(cri, podspec::uid(pod), &mut self.ended).await,
        };
        if let Ok(view) = seen {
            self.read_messages(&view);
            self.watch_probes(pod, spec, &view);
            self.write_status(pod, &view, false, None);
        }
        match result {
            Ok(Done { again: true, .. }) => Next::Look(Duration::ZERO),
            Ok(Done { again: false, .. }) => Next::Look(self.soonest(wait)),
            Err(pause) => Next::Look(pause),
        }
    }

    /// Ends a pod that has run for as long as it may.
    fn overdue(&self, pod: &Arc<Pod>) -> Next {
        const REASON: &str = "DeadlineExceeded";
        const MESSAGE: &str = "Pod was active on the node longer than the specified deadline";
        self.shared.events.pod(pod, EventKind::Normal, REASON, MESSAGE);
        self.inbox.end(End::Failed {
            reason: REASON.to_owned(),
            message: MESSAGE.to_owned(),
            grace_seconds: None,
            disruption: None,
        });
        Next::Look(Duration::ZERO)
    }

    /// Brings containers to what the pod was given; tells whether that worked.
    async fn resize(&self, pod: &Arc<Pod>, updates: &[resize::Update]) -> bool {
        let result = super::resize::carry_out(&self.shared, pod, updates).await;
        let error = result.err();
        if self.shared.allocations.failed(podspec::uid(pod), error.clone())
            && let Some(why) = &error
        {
            let text = format!("Pod resize error: {}", resize::summary(pod, why));
            self.shared
                .events
                .pod(pod, EventKind::Warning, "ResizeError", text);
        }
        error.is_none()
    }

    /// Conditions about a change of the pod's resources.
    fn resize_conditions(&mut self, pod: &Arc<Pod>, view: &PodView, allocation: &Allocation) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some(pending) = &allocation.pending {
            verdicts.push(Verdict {
                message: Some(pending.message().to_owned()),
                ..Verdict::holds("PodResizePending", Some(pending.reason()))
            });
        }
        let under_way = resize::is_under_way(pod, view, &allocation.actual);
        if under_way {
            verdicts.push(Verdict {
                message: allocation.error.clone(),
                ..Verdict::holds("PodResizeInProgress", allocation.error.as_ref().map(|_| "Error"))
            });
        } else if self.resizing {
            let text = format!("Pod resize completed: {}", resize::summary(pod, ""));
            self.shared
                .events
                .pod(pod, EventKind::Normal, "ResizeCompleted", text);
        }
        self.resizing = under_way;
        verdicts
    }

    /// All containers have ended and none starts again.
    async fn complete(&mut self, pod: &Arc<Pod>, view: &PodView) -> Next {
        let grace = terminate::grace(pod, None);
        if let Err(error) = terminate::stop_pod(&self.shared, pod, view, grace).await {
            tracing::warn!(
                pod = podspec::name(pod),
                error,
                "could not stop a pod that has ended"
            );
            return Next::Look(AFTER_FAILURE);
        }
        self.prober.retain(&self.shared, |_| false);
        let Ok(view) = observe(&self.shared.cri, podspec::uid(pod), &mut self.ended).await else {
            return Next::Look(AFTER_FAILURE);
        };
        self.read_messages(&view);
        self.waiting.clear();
        self.write_status(pod, &view, true, None);
        self.inbox.finished.send_replace(true);
        self.give_back(pod);
        Next::Rest
    }

    /// Keeps an idle pod's changing content fresh, for ever.
    async fn refresh(&self) {
        loop {
            Box::pin(self.refresh_volumes()).await;
            tokio::time::sleep(REFRESH).await;
        }
    }

    async fn refresh_volumes(&self) {
        let pod = &self.shared.allocations.given(&self.inbox.pod());
        let objects = self.shared.fetch.objects(pod).await;
        if let Err(error) = volumes::set_up(&self.shared.settings.dirs.root, pod, &objects) {
            tracing::debug!(
                pod = podspec::name(pod),
                error = mainstay_base::error::chain(&error),
                "could not refresh a volume"
            );
        }
    }

    fn soonest(&self, wait: Option<Duration>) -> Duration {
        let pull = self.pulls.next(self.shared.clock.monotonic());
        wait.into_iter().chain(pull).min().unwrap_or(RESYNC)
    }

    fn watch_probes(&mut self, pod: &Arc<Pod>, spec: &PodSpec, view: &PodView) {
        let ip = match podspec::host_network(pod) {
            true => self.shared.host_ips.first().cloned(),
            false => view.ready_sandbox().and_then(|s| s.ips.first().cloned()),
        };
        let ip = ip.unwrap_or_default();
        for seen in view.running() {
            if let Some(container) = find(spec, &seen.name) {
                self.prober
                    .watch(&self.shared, pod, &container, seen, &ip, &self.inbox.wake);
            }
        }
        self.prober
            .retain(&self.shared, |id| view.running().any(|c| c.id == id));
    }

    /// Takes out of the plan what must wait for its back-off; tells how long.
    fn hold_back(
        &mut self,
        pod: &Pod,
        spec: &PodSpec,
        view: &PodView,
        mut actions: Actions,
    ) -> (Actions, Option<Duration>) {
        let mut wait: Option<Duration> = None;
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        let mut may_start = |container: &Container| {
            let Some(seen) = view.latest(&container.name).filter(|c| c.state == State::Exited) else {
                return true;
            };
            match self.try_restart(seen) {
                Ok(()) => true,
                Err((whole, left)) => {
                    let whole = crate::config::duration::format(whole);
                    let message = format!(
                        "back-off {whole} restarting failed container={} pod={}_{}({})",
                        container.name,
                        podspec::name(pod),
                        podspec::namespace(pod),
                        podspec::uid(pod)
                    );
                    self.tell_backoff(pod, container, &message);
                    self.waiting
                        .insert(container.name.clone(), Waiting::new("CrashLoopBackOff", message));
                    wait = Some(wait.map_or(left, |w: Duration| w.min(left)));
                    false
                }
            }
        };
        actions.to_start.retain(|i| may_start(&spec.containers[*i]));
        actions.init_to_start.retain(|i| may_start(&inits[*i]));
        (actions, wait)
    }

    fn tell_backoff(&self, pod: &Pod, container: &Container, message: &str) {
        let known = self.waiting.get(&container.name);
        if known.is_none_or(|w| w.message != message) {
            let text = format!(
                "Back-off restarting failed container {} in pod {}_{}({})",
                container.name,
                podspec::name(pod),
                podspec::namespace(pod),
                podspec::uid(pod)
            );
            self.shared
                .events
                .container(pod, &container.name, EventKind::Warning, "BackOff", text);
        }
    }

    fn try_restart(&mut self, seen: &ContainerView) -> Result<(), (Duration, Duration)> {
        // One end counts once, however often its start is tried.
        if self.ends_counted.get(&seen.name) == Some(&seen.finished_at) {
            return Ok(());
        }
        let run = Duration::from_nanos((seen.finished_at - seen.started_at).max(0) as u64);
        let max = self.shared.settings.kubelet.longest_restart_wait();
        self.restarts
            .start(&seen.name, seen.finished_at, run, self.shared.now_nanos(), max)?;
        self.ends_counted.insert(seen.name.clone(), seen.finished_at);
        Ok(())
    }

    /// Carries out a plan.
    async fn apply(
        &mut self,
        pod: &Arc<Pod>,
        spec: &PodSpec,
        view: &PodView,
        actions: &Actions,
    ) -> Result<Done, Duration> {
        if actions.kill_pod {
            let grace = terminate::grace(pod, None);
            terminate::stop_pod(&self.shared, pod, view, grace)
                .await
                .map_err(|_| AFTER_FAILURE)?;
        }
        self.kill(pod, spec, view, actions).await;
        let chosen = chosen(spec, actions);
        if chosen.is_empty() && actions.create_sandbox.is_none() {
            return Ok(Done {
                again: !actions.kill.is_empty(),
                begun: None,
            });
        }
        self.make_cgroup(pod)?;
        // A pod whose volumes cannot be had gets no sandbox.
        let objects = self.set_up_volumes(pod).await?;
        let shared = self.shared.clone();
        let mut turn = shared.starts.take().await;
        let sandbox = match actions.create_sandbox {
            Some(attempt) => make_sandbox(&self.shared, pod, attempt)
                .await
                .map_err(|_| AFTER_FAILURE)?,
            None => view.ready_sandbox().cloned().ok_or(AFTER_FAILURE)?,
        };
        let mut started = Vec::new();
        for container in &chosen {
            turn.resume().await;
            started.extend(
                self.start(pod, view, &sandbox, &objects, container, &mut turn)
                    .await,
            );
        }
        let waits_for_init = actions.create_sandbox.is_some() && !actions.init_to_start.is_empty();
        if started.len() < chosen.len() {
            return Err(self.soonest(Some(Duration::from_secs(10))));
        }
        let is_first = view.sandboxes.is_empty() && view.containers.is_empty();
        Ok(Done {
            again: waits_for_init || !actions.kill.is_empty(),
            begun: is_first.then_some((sandbox, started)),
        })
    }

    async fn kill(&mut self, pod: &Arc<Pod>, spec: &PodSpec, view: &PodView, actions: &Actions) {
        for kill in &actions.kill {
            let Some(seen) = view.containers.iter().find(|c| c.id == kill.id) else {
                continue;
            };
            let limit = find(spec, &kill.name)
                .and_then(|c| probe_grace(&c))
                .filter(|_| kill.by_probe());
            let grace = limit.map_or_else(|| terminate::grace(pod, None), |s| Duration::from_secs(s as u64));
            let ip = view
                .sandboxes
                .first()
                .and_then(|s| s.ips.first().cloned())
                .unwrap_or_default();
            let stopped = terminate::stop_container(&self.shared, pod, seen, grace, &kill.message, &ip).await;
            if let Err(error) = stopped {
                tracing::warn!(pod = podspec::name(pod), error, "could not stop a container");
            }
        }
    }

    fn make_cgroup(&self, pod: &Arc<Pod>) -> Result<(), Duration> {
        let made = make_cgroup(&self.shared, pod);
        made.map(drop).map_err(|why| {
            let text = format!("unable to ensure pod container exists: {why}");
            self.shared
                .events
                .pod(pod, EventKind::Warning, "FailedCreatePodContainer", text);
            AFTER_FAILURE
        })
    }

    /// Fetches what the pod refers to and makes its volumes.
    async fn set_up_volumes(&self, pod: &Arc<Pod>) -> Result<volumes::content::Objects, Duration> {
        let objects = self.shared.fetch.objects(pod).await;
        match volumes::set_up(&self.shared.settings.dirs.root, pod, &objects) {
            Ok(()) => Ok(objects),
            Err(error) => {
                let text = mainstay_base::error::chain(&error);
                self.shared
                    .events
                    .pod(pod, EventKind::Warning, "FailedMount", text);
                Err(AFTER_FAILURE)
            }
        }
    }

    async fn start(
        &mut self,
        pod: &Arc<Pod>,
        view: &PodView,
        sandbox: &SandboxView,
        objects: &volumes::content::Objects,
        container: &Container,
        turn: &mut Turn<'_>,
    ) -> Option<String> {
        let context = StartContext {
            shared: &self.shared,
            pod,
            sandbox,
            objects,
            pulls: &self.pulls,
            view,
        };
        let (tally, kind) = (&self.shared.tally, kind_of(pod, &container.name));
        tally.containers.count([kind.into()]);
        let latest = view.latest(&container.name);
        match context.start(container, next_attempt(latest), turn).await {
            Ok(id) => {
                self.waiting.remove(&container.name);
                Some(id)
            }
            Err(why) => {
                tally.containers_failed.count([why.reason.into(), kind.into()]);
                self.waiting.insert(container.name.clone(), why);
                None
            }
        }
    }
}

/// Conditions of our last status, with those that only the API knows.
fn merged(own: &PodStatus, api: &PodStatus) -> Option<Vec<k8s_openapi::api::core::v1::PodCondition>> {
    let mut conditions = own.conditions.clone().unwrap_or_default();
    for condition in api.conditions.iter().flatten() {
        if !conditions.iter().any(|c| c.type_ == condition.type_) {
            conditions.push(condition.clone());
        }
    }
    Some(conditions)
}

fn probe_grace(container: &Container) -> Option<i64> {
    let probes = [&container.liveness_probe, &container.startup_probe];
    probes
        .into_iter()
        .flatten()
        .find_map(|p| p.termination_grace_period_seconds)
}

fn find(spec: &PodSpec, name: &str) -> Option<Container> {
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let plain = all.into_iter().find(|c| c.name == name).cloned();
    plain.or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        ephemeral
            .into_iter()
            .find(|e| e.name == name)
            .map(ephemeral_as_container)
    })
}

/// The kubelet's word for the kind of a container.
fn kind_of(pod: &Pod, name: &str) -> &'static str {
    let spec = pod.spec.iter();
    let mut first = spec.clone().flat_map(|s| s.init_containers.iter().flatten());
    let mut main = spec.flat_map(|s| &s.containers);
    if main.any(|c| c.name == name) {
        "container"
    } else if first.any(|c| c.name == name) {
        "init_container"
    } else {
        "ephemeral_container"
    }
}

/// The containers a plan starts, in order.
fn chosen(spec: &PodSpec, actions: &Actions) -> Vec<Container> {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let ephemeral = spec.ephemeral_containers.as_deref().unwrap_or_default();
    let mut all: Vec<Container> = actions
        .ephemeral_to_start
        .iter()
        .map(|i| ephemeral_as_container(&ephemeral[*i]))
        .collect();
    all.extend(actions.init_to_start.iter().map(|i| inits[*i].clone()));
    all.extend(actions.to_start.iter().map(|i| spec.containers[*i].clone()));
    all
}

#[cfg(test)]
mod tests;
