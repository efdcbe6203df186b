//! How much of the server each kind of client may have at once. Requests sit in lanes: nodes and the cluster's own
//! components have one to themselves, so that heartbeats go on whatever tenants do; everybody else shares another, no user
//! more than half of it. A request takes seats by what it costs: objects and bytes that it reads, bytes that it sends. So
//! seats bound what requests hold in memory, too. Who finds none waits a little and is then told to come back: 429 with
//! Retry-After.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::Server;
use mainstay_access::info::RequestInfo;
use mainstay_access::query::Query;
use mainstay_access::status::{ApiError, ApiResult};
use mainstay_access::user::{GROUP_MASTERS, USER_ANONYMOUS, UserInfo};

/// Seats of each lane unless told otherwise: what upstream lets in.
pub const SEATS: u32 = 400;
/// Objects of a list that cost as much as one small request: 5,000 nodes take as much processor time as 200 reads.
const OBJECTS_PER_SEAT: usize = 25;
/// Bytes of a list that cost as much as one small request: as many as so many nodes have.
const LISTED_PER_SEAT: usize = 200 << 10;
/// Bytes of a request's body that cost as much as one small request. Parsed, a body takes up to thirty times its size: the
/// largest ones of one user are worked on two at a time.
const SENT_PER_SEAT: usize = 32 << 10;
/// A large list that is made while it is sent keeps one of so many of its seats until the client has read it.
const WHILE_SENDING: usize = 10;
/// Watches of one user: each holds buffers, and a copy of the state that it begins with until that is read.
const WATCHES_PER_USER: usize = 2_000;
/// And so many more for every node: a program that runs on all of them is one user.
const WATCHES_PER_NODE: usize = 10;
/// How long a request waits for its seats.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests of one user that may wait; further ones are refused at once.
const WAITING_PER_USER: usize = 200;
/// Users remembered without a request before they are looked through.
const IDLE_USERS: usize = 1_024;
/// The group of nodes.
const GROUP_NODES: &str = "system:nodes";

/// The lanes of a server.
pub struct Lanes {
    system: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    share: u32,
    users: Mutex<HashMap<String, Arc<Share>>>,
    refused: AtomicUsize,
}

/// One user's part of the shared lane.
struct Share {
    seats: Arc<Semaphore>,
    watches: AtomicUsize,
    waiting: AtomicUsize,
}

/// What a request holds while it is worked on, and part of it while its answer is sent.
#[derive(Default)]
pub struct Seats {
    own: Option<OwnedSemaphorePermit>,
    lane: Option<OwnedSemaphorePermit>,
    watch: Option<Watching>,
}

impl Seats {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.lane.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// What remains for an answer of so many bytes that stand in memory for it alone.
    pub fn for_bytes(self, bytes: usize) -> Seats {
        self.at_most(bytes.div_ceil(LISTED_PER_SEAT))
    }

    /// What remains for an answer that is made while it is sent.
    pub fn for_made(self) -> Seats {
        let has = self.own.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.at_most(has / WHILE_SENDING)
    }

    /// What remains for a watch.
    pub fn for_stream(self) -> Option<Watching> {
        self.watch
    }

    /// Gives back all but so many, and at least one.
    fn at_most(mut self, seats: usize) -> Seats {
        for permit in [&mut self.own, &mut self.lane].into_iter().flatten() {
            let more = permit.num_permits().saturating_sub(seats.max(1));
            drop(permit.split(more));
        }
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Administrators and health checks: never refused.
    Exempt,
    System,
    Shared,
}

impl Lanes {
    /// Makes lanes with so many seats each.
    pub fn new(seats: u32) -> Self {
        Lanes {
            system: Arc::new(Semaphore::new(seats as usize)),
            shared: Arc::new(Semaphore::new(seats as usize)),
            share: (seats / 2).max(1),
            users: Mutex::default(),
            refused: AtomicUsize::new(0),
        }
    }

    /// How many requests were refused so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits for the seats of a request.
    ///
    /// # Errors
    /// 429 when there are none within a few seconds.
    pub(crate) async fn enter(
        &self,
        server: &Server,
        info: &RequestInfo,
        user: &UserInfo,
        query: &Query,
        body_bytes: usize,
    ) -> ApiResult<Seats> {
        let seats = match lane(info, user) {
            Lane::Exempt => return Ok(Seats::default()),
            Lane::System => take(&self.system, 1).await.map(|lane| Seats {
                lane: Some(lane),
                ..Seats::default()
            }),
            Lane::Shared => {
                let cost = self.cost(server, info, query).max(body_bytes / SENT_PER_SEAT);
                let cost = u32::try_from(cost).unwrap_or(u32::MAX).clamp(1, self.share);
                let nodes = || server.caches().resource("core/nodes").count();
                let watches = || WATCHES_PER_USER + WATCHES_PER_NODE * nodes();
                let watches = (info.verb == "watch").then(watches);
                self.enter_shared(user, cost, watches).await
            }
        };
        seats.ok_or_else(|| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let message =
                "The request has been rejected because the server is too busy. Please try again later";
            ApiError::too_many_requests(message, 1)
        })
    }

    /// `watches`: how many the user may have, for a request that is one.
    async fn enter_shared(&self, user: &UserInfo, cost: u32, watches: Option<usize>) -> Option<Seats> {
        let share = self.share_of(&user.name);
        let watch = match watches {
            Some(most) => Some(Watching::begin(&share, most)?),
            None => None,
        };
        if share.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_PER_USER {
            share.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let waiting = Waiting(share.clone());
        let own = take(&share.seats, cost).await?;
        let lane = take(&self.shared, cost).await?;
        drop(waiting);
        Some(Seats {
            own: Some(own),
            lane: Some(lane),
            watch,
        })
    }

    fn share_of(&self, user: &str) -> Arc<Share> {
        let mut users = self.users.lock();
        if let Some(share) = users.get(user) {
            return share.clone();
        }
        if users.len() >= IDLE_USERS {
            // A share in use is held by its requests' permits, by its watches or by who waits.
            users.retain(|_, share| {
                Arc::strong_count(share) > 1 || share.seats.available_permits() < self.share as usize
            });
        }
        let share = Arc::new(Share {
            seats: Arc::new(Semaphore::new(self.share as usize)),
            watches: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
        });
        users.insert(user.to_owned(), share.clone());
        share
    }

    /// How many seats a request takes for what it reads.
    fn cost(&self, server: &Server, info: &RequestInfo, query: &Query) -> usize {
        let reads_many = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        let resumes = info.verb == "watch" && query.text("resourceVersion").is_some_and(|at| at != "0");
        if !reads_many || resumes || !info.name.is_empty() {
            return 1;
        }
        let catalog = server.catalog();
        let Some(resource) = catalog.find(&info.group, &info.version, &info.resource) else {
            return 1;
        };
        let namespace = Some(info.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let (objects, bytes) = server.caches().resource(&resource.store).size_of(namespace);
        let limit = query.text("limit").and_then(|limit| limit.parse().ok());
        let read = limit.filter(|limit| *limit > 0).unwrap_or(objects).min(objects);
        let bytes = bytes / objects.max(1) * read;
        (read / OBJECTS_PER_SEAT).max(bytes / LISTED_PER_SEAT)
    }
}

/// Counts a watch until it ends.
pub struct Watching(Arc<Share>);

impl Watching {
    fn begin(share: &Arc<Share>, most: usize) -> Option<Watching> {
        let before = share.watches.fetch_add(1, Ordering::Relaxed);
        let watching = Watching(share.clone());
        (before < most).then_some(watching)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a waiting request out.
struct Waiting(Arc<Share>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn take(seats: &Arc<Semaphore>, count: u32) -> Option<OwnedSemaphorePermit> {
    if let Ok(free) = seats.clone().try_acquire_many_owned(count) {
        return Some(free);
    }
    let taken = tokio::time::timeout(PATIENCE, seats.clone().acquire_many_owned(count)).await;
    taken.ok()?.ok()
}

fn lane(info: &RequestInfo, user: &UserInfo) -> Lane {
    let probe = !info.is_resource
        && ["/healthz", "/livez", "/readyz"]
            .iter()
            .any(|path| info.path.starts_with(path));
    if probe || user.in_group(GROUP_MASTERS) {
        return Lane::Exempt;
    }
    let of_cluster = match user.name.strip_prefix("system:serviceaccount:") {
        Some(account) => account.starts_with("kube-system:"),
        None => user.name.starts_with("system:") && user.name != USER_ANONYMOUS,
    };
    match of_cluster || user.in_group(GROUP_NODES) {
        true => Lane::System,
        false => Lane::Shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn info(path: &str) -> RequestInfo {
        RequestInfo::parse(&Method::GET, path, &Query::parse(""))
    }

    #[test]
    fn nodes_and_components_do_not_share_a_lane_with_tenants() {
        let pods = info("/api/v1/pods");
        let user = |name: &str| UserInfo::component(name);
        assert_eq!(lane(&pods, &user("system:node:n1")), Lane::System);
        assert_eq!(lane(&pods, &user("system:kube-scheduler")), Lane::System);
        assert_eq!(
            lane(&pods, &user("system:serviceaccount:kube-system:job-controller")),
            Lane::System
        );
        assert_eq!(
            lane(&pods, &user("system:serviceaccount:kube-systems:x")),
            Lane::Shared
        );
        assert_eq!(lane(&pods, &user("alice")), Lane::Shared);
        assert_eq!(lane(&pods, &UserInfo::anonymous()), Lane::Shared);
        assert_eq!(lane(&pods, &UserInfo::admin()), Lane::Exempt);
        assert_eq!(lane(&info("/readyz"), &UserInfo::anonymous()), Lane::Exempt);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_gets_half_of_the_lane_and_is_then_told_to_come_back() {
        let lanes = Lanes::new(4);
        let (alice, bob) = (UserInfo::component("alice"), UserInfo::component("bob"));
        let first = lanes.enter_shared(&alice, 1, None).await;
        let second = lanes.enter_shared(&alice, 1, None).await;
        assert!(first.is_some() && second.is_some());
        assert!(
            lanes.enter_shared(&alice, 1, None).await.is_none(),
            "her share is used up"
        );
        assert!(lanes.enter_shared(&bob, 2, None).await.is_some(), "his is not");
        drop(second);
        assert!(
            lanes.enter_shared(&alice, 1, None).await.is_some(),
            "seats come back"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_on_its_way_keeps_a_part_of_the_seats() {
        let lanes = Lanes::new(200);
        let alice = UserInfo::component("alice");
        let free = || lanes.share_of("alice").seats.available_permits();
        let seats = lanes.enter_shared(&alice, 100, None).await.unwrap();
        assert_eq!(free(), 0);
        let seats = seats.for_made();
        assert_eq!((free(), lanes.shared.available_permits()), (90, 190));
        let seats = seats.for_bytes(1);
        assert_eq!(free(), 99);
        drop(seats);
        assert_eq!(free(), 100);
    }

    #[tokio::test]
    async fn watches_are_counted_until_they_end() {
        let lanes = Lanes::new(400);
        let alice = UserInfo::component("alice");
        let mut watches = Vec::new();
        for _ in 0..3 {
            let seats = lanes.enter_shared(&alice, 1, Some(3)).await.unwrap();
            watches.push(seats.for_stream().unwrap());
        }
        assert!(lanes.enter_shared(&alice, 1, Some(3)).await.is_none());
        assert!(
            lanes.enter_shared(&alice, 1, Some(4)).await.is_some(),
            "a node came"
        );
        assert!(lanes.enter_shared(&alice, 1, None).await.is_some());
        watches.pop();
        assert!(lanes.enter_shared(&alice, 1, Some(3)).await.is_some());
    }
}
