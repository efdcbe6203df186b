//! The transaction of a write: the object, what is charged for it, and what is allocated with it, all or nothing.

use std::sync::Arc;
use std::time::Duration;

use mainstay_store::{Class, Condition, Error, Key, Op};
use serde_json::Value;

use super::Write;
use mainstay_access::hooks::Review;
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};

/// Events are deleted after this long: upstream's default.
const EVENT_TTL: Duration = Duration::from_secs(3_600);
/// How often a charge is computed anew, for other servers over the same store, before the client hears of the contention.
const CHARGE_TRIES: usize = 50;

/// What is to be stored.
#[derive(Clone, Copy)]
pub enum Goal<'a> {
    /// A new object.
    Create(&'a Value),
    /// A change of what has this revision.
    Replace(&'a Value, u64),
    /// A deletion of what has this revision.
    Delete(&'a Value, u64),
}

/// Why nothing was stored.
pub enum Failure {
    /// Somebody else wrote the object first.
    Raced,
    /// Somebody else took an address or port that was chosen for the object.
    Taken,
    /// Something that the client must hear.
    Refused(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Refused(error)
    }
}

impl Write<'_> {
    /// Stores, and returns the object as stored. `review` is charged.
    pub(super) async fn commit(
        &self,
        name: &str,
        goal: Goal<'_>,
        review: &Review,
    ) -> Result<Arc<Object>, Failure> {
        let (Goal::Create(value) | Goal::Replace(value, _) | Goal::Delete(value, _)) = goal;
        self.commit_bytes(name, goal, canonical(value), review).await
    }

    /// The same for a goal whose canonical bytes are known.
    pub(super) async fn commit_bytes(
        &self,
        name: &str,
        goal: Goal<'_>,
        bytes: bytes::Bytes,
        review: &Review,
    ) -> Result<Arc<Object>, Failure> {
        let key = Key::new(&self.resource.store, self.namespace, name);
        let condition = match goal {
            Goal::Create(_) => Condition::Absent(key.clone()),
            Goal::Replace(_, revision) | Goal::Delete(_, revision) => {
                Condition::Revision(key.clone(), revision)
            }
        };
        let object = |revision| Arc::new(Object::new(bytes.clone(), revision, &self.resource.fields));
        let mut turn = None;
        for _ in 0..CHARGE_TRIES {
            let (mut conditions, mut ops) = self.charges(review).await?;
            if self.options.dry_run {
                return Ok(object(match goal {
                    Goal::Create(_) => 0,
                    Goal::Replace(_, revision) | Goal::Delete(_, revision) => revision,
                }));
            }
            if turn.is_none() && !ops.is_empty() {
                let taken = self.server.turns.take(ops.iter().map(Op::key)).await;
                let waited = taken.waited;
                turn = Some(taken);
                if waited {
                    self.catch_up().await?;
                    continue;
                }
            }
            let charged: Vec<Key> = ops.iter().map(|op| op.key().clone()).collect();
            conditions.insert(0, condition.clone());
            ops.insert(
                0,
                match goal {
                    Goal::Delete(..) => Op::delete(key.clone()),
                    _ => self.put(key.clone(), bytes.clone()),
                },
            );
            self.server
                .allocator
                .ride_along(self.server, review, &goal, &mut conditions, &mut ops);
            match self.server.caches().store().txn(conditions, ops).await {
                Ok(revision) => return Ok(object(revision)),
                Err(Error::Conflict { key: other, .. }) if other == key => return Err(Failure::Raced),
                Err(Error::Conflict { key: other, .. }) => {
                    self.catch_up().await?;
                    if !charged.contains(&other) {
                        return Err(Failure::Taken);
                    }
                }
                Err(Error::Invalid(why)) => return Err(ApiError::bad_request(why).into()),
                // It may have happened all the same: clients try again by themselves after 503, but not after this.
                Err(error @ Error::Etcd { .. }) => return Err(ApiError::internal(error).into()),
                Err(error) => return Err(ApiError::unavailable(error.to_string()).into()),
            }
        }
        let message = "too many writes contend for the same quota, try again";
        Err(ApiError::too_many_requests(message, 1).into())
    }

    async fn catch_up(&self) -> ApiResult<()> {
        self.server
            .caches()
            .fresh()
            .await
            .map_err(|error| ApiError::unavailable(error.to_string()))
    }

    async fn charges(&self, review: &Review) -> ApiResult<(Vec<Condition>, Vec<Op>)> {
        let (mut conditions, mut ops) = (Vec::new(), Vec::new());
        for charge in &self.server.hooks.charge {
            for charged in charge.charge(review, &**self.server.caches()).await? {
                let key = Key::new(&charged.resource, &charged.namespace, &charged.name);
                conditions.push(Condition::Revision(key.clone(), charged.revision));
                ops.push(Op::put(key, canonical(&charged.value)));
            }
        }
        Ok((conditions, ops))
    }

    fn put(&self, key: Key, value: bytes::Bytes) -> Op {
        let (class, ttl) = match &*self.resource.store {
            "core/events" => (Class::Volatile, Some(EVENT_TTL)),
            "coordination.k8s.io/leases" => (Class::Volatile, None),
            _ => (Class::Durable, None),
        };
        Op::Put {
            key,
            value,
            ttl,
            class,
        }
    }
}

/// The canonical bytes of a value: sorted, without resourceVersion, in a buffer of their own length.
pub fn canonical(value: &Value) -> bytes::Bytes {
    mainstay_objects::json::write_stored(value)
        .into_boxed_slice()
        .into()
}
