//! A watch on etcd: the whole keyspace is watched, so that the marker gives progress, and filtered here.

use std::collections::VecDeque;

use async_trait::async_trait;
use etcd_client::{Client, EventType, WatchOptions, WatchStream};

use super::{failed, keys};
use crate::error::{Error, Result};
use crate::model::{Event, Prefix, Revision, WatchItem, WatchSource};

/// See the module's text.
pub(super) struct EtcdWatch {
    stream: WatchStream,
    uid: String,
    prefix: Prefix,
    ready: VecDeque<WatchItem>,
}

impl EtcdWatch {
    pub(super) async fn start(client: &Client, uid: &str, prefix: Prefix, after: u64) -> Result<Self> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_prev_key()
            .with_start_revision((after + 1).cast_signed());
        let mut client = client.watch_client().max_decoding_message_size(usize::MAX);
        let stream = client
            .watch(keys::plane(uid), Some(options))
            .await
            .map_err(failed("watch"))?;
        Ok(EtcdWatch {
            stream,
            uid: uid.to_string(),
            prefix,
            ready: VecDeque::new(),
        })
    }

    /// Reads one event; `None` = not ours to deliver.
    fn event(&self, event: &etcd_client::Event) -> Result<Option<Event>> {
        let Some(kv) = event.kv() else { return Ok(None) };
        let Some(key) = keys::parse(&self.uid, kv.key())?.filter(|key| self.prefix.contains(key)) else {
            return Ok(None);
        };
        let value = match event.event_type() {
            EventType::Put => Some(keys::unwrap(kv.key(), kv.value())?),
            EventType::Delete => None,
        };
        let prev = event.prev_kv();
        let created = kv.create_revision() == kv.mod_revision() && value.is_some();
        if prev.is_none() && !created {
            // The value before is compacted: whoever needs it must start anew.
            return Err(Error::Compacted {
                asked: 0,
                floor: kv.mod_revision().cast_unsigned(),
            });
        }
        Ok(Some(Event {
            key,
            value,
            prev: prev
                .map(|prev| keys::unwrap(prev.key(), prev.value()))
                .transpose()?,
            prev_revision: prev.map_or(0, |prev| prev.mod_revision().cast_unsigned()),
        }))
    }

    /// Groups a response's events by revision.
    fn take(&mut self, events: &[etcd_client::Event]) -> Result<()> {
        let revision_of =
            |event: &etcd_client::Event| event.kv().map_or(0, |kv| kv.mod_revision().cast_unsigned());
        let mut newest = 0;
        for group in events.chunk_by(|one, other| revision_of(one) == revision_of(other)) {
            newest = revision_of(&group[0]);
            let mut own = Vec::new();
            for event in group {
                own.extend(self.event(event)?);
            }
            if !own.is_empty() {
                self.ready.push_back(WatchItem::Revision(Revision {
                    revision: newest,
                    events: own.into(),
                }));
            }
        }
        self.ready.push_back(WatchItem::Progress(newest));
        Ok(())
    }
}

#[async_trait]
impl WatchSource for EtcdWatch {
    async fn next(&mut self) -> Result<WatchItem> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let response = self
                .stream
                .message()
                .await
                .map_err(failed("continue a watch"))?
                .ok_or(Error::Closed)?;
            if response.compact_revision() > 0 {
                return Ok(WatchItem::Compacted(response.compact_revision().cast_unsigned()));
            }
            if response.canceled() {
                return Err(Error::Etcd {
                    action: "continue a watch",
                    message: response.cancel_reason().to_string(),
                });
            }
            if response.events().is_empty() {
                continue;
            }
            match self.take(response.events()) {
                Err(Error::Compacted { floor, .. }) => return Ok(WatchItem::Compacted(floor)),
                other => other?,
            }
        }
    }
}
