//! Amounts of resources as integers: what filters compare and bin-packing divides.

use std::sync::Arc;

use mainstay_semantics::pod::ResourceList;
use mainstay_semantics::resource_name::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS, is_scalar};

/// Amounts of everything a node offers or a pod asks for, except the number of pods.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local disk.
    pub ephemeral_bytes: i64,
    /// Extended resources, hugepages and the like, sorted by name.
    pub scalars: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Takes the amounts the scheduler counts out of a resource list (rounded up).
    pub fn from_list(list: &ResourceList) -> Self {
        let value = |name: &str| list.get(name).map_or(0, |quantity| quantity.value());
        Resources {
            cpu_milli: list.get(CPU).map_or(0, |quantity| quantity.milli_value()),
            memory_bytes: value(MEMORY),
            ephemeral_bytes: value(EPHEMERAL_STORAGE),
            scalars: list
                .iter()
                .filter(|(name, _)| is_scalar(name))
                .map(|(name, quantity)| (Arc::from(name.as_str()), quantity.value()))
                .collect(),
        }
    }

    /// Gives the amount of one scalar resource, 0 when there is none.
    pub fn scalar(&self, name: &str) -> i64 {
        let at = self.scalars.binary_search_by(|(own, _)| (**own).cmp(name));
        at.map_or(0, |at| self.scalars[at].1)
    }

    /// Gives the amount of any resource by name (cpu in thousandths).
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            CPU => self.cpu_milli,
            MEMORY => self.memory_bytes,
            EPHEMERAL_STORAGE => self.ephemeral_bytes,
            other => self.scalar(other),
        }
    }

    /// Adds `times` the other's amounts; `times` may be negative.
    pub fn add(&mut self, other: &Resources, times: i64) {
        self.cpu_milli += other.cpu_milli * times;
        self.memory_bytes += other.memory_bytes * times;
        self.ephemeral_bytes += other.ephemeral_bytes * times;
        for (name, amount) in &other.scalars {
            match self.scalars.binary_search_by(|(own, _)| own.cmp(name)) {
                Ok(at) => self.scalars[at].1 += amount * times,
                Err(at) => self.scalars.insert(at, (name.clone(), amount * times)),
            }
        }
    }

    /// Tells how often `request` fits into these free amounts, at most `most` times.
    pub fn holds(&self, request: &Resources, most: i64) -> i64 {
        let mut times = most;
        let mut limit = |free: i64, wanted: i64| {
            if wanted > 0 {
                times = times.min((free / wanted).max(0));
            }
        };
        limit(self.cpu_milli, request.cpu_milli);
        limit(self.memory_bytes, request.memory_bytes);
        limit(self.ephemeral_bytes, request.ephemeral_bytes);
        for (name, wanted) in &request.scalars {
            limit(self.scalar(name), *wanted);
        }
        times
    }

    /// Names the resources of which `request` wants more than these free amounts, in upstream's order.
    pub fn lacking(&self, request: &Resources) -> Vec<Arc<str>> {
        let fixed = [
            (CPU, self.cpu_milli, request.cpu_milli),
            (MEMORY, self.memory_bytes, request.memory_bytes),
            (EPHEMERAL_STORAGE, self.ephemeral_bytes, request.ephemeral_bytes),
        ];
        let scalars = request
            .scalars
            .iter()
            .map(|(name, wanted)| (&**name, self.scalar(name), *wanted));
        fixed
            .into_iter()
            .chain(scalars)
            .filter(|(_, free, wanted)| *wanted > 0 && wanted > free)
            .map(|(name, _, _)| Arc::from(name))
            .collect()
    }

    /// Tells whether `request` fits into these free amounts.
    pub fn fits(&self, request: &Resources) -> bool {
        self.holds(request, 1) == 1
    }
}

/// Gives the number of pods a resource list allows; 110 when it does not say.
pub fn pods_allowed(list: &ResourceList) -> i64 {
    list.get(PODS).map_or(110, |quantity| quantity.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        Resources::from_list(&serde_json::from_str(text).expect("a resource list"))
    }

    #[test]
    fn what_is_lacking_is_named_in_order() {
        let free = resources(r#"{"cpu":"1","memory":"1Gi","example.com/foo":"1"}"#);
        let wanted =
            resources(r#"{"cpu":"1500m","memory":"1Gi","example.com/bar":"1","example.com/foo":"2"}"#);
        assert_eq!(
            free.lacking(&wanted),
            ["cpu".into(), "example.com/bar".into(), "example.com/foo".into()]
        );
        assert!(!free.fits(&wanted));
    }

    #[test]
    fn holds_counts_whole_times() {
        let free = resources(r#"{"cpu":"4","memory":"16Gi","example.com/foo":"3"}"#);
        assert_eq!(free.holds(&resources(r#"{"cpu":"1500m"}"#), 100), 2);
        assert_eq!(free.holds(&resources(r#"{"example.com/foo":"1"}"#), 100), 3);
        assert_eq!(free.holds(&resources("{}"), 100), 100);
    }
}
