//! Which kinds the server serves now, with what can be done to them.

use kube::core::ApiResource;
use kube::discovery::{ApiCapabilities, Discovery, Scope, verbs};
use mainstay_control::Error;

/// One kind as discovery describes it.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub resource: ApiResource,
    pub namespaced: bool,
    pub watchable: bool,
    pub collection: bool,
}

impl Kind {
    fn of((resource, capabilities): (ApiResource, ApiCapabilities)) -> Option<Kind> {
        let can = |verb| capabilities.supports_operation(verb);
        (can(verbs::LIST) && can(verbs::DELETE)).then(|| Kind {
            namespaced: capabilities.scope == Scope::Namespaced,
            watchable: can(verbs::WATCH),
            collection: can(verbs::DELETE_COLLECTION),
            resource,
        })
    }
}

/// All kinds whose objects can be listed and deleted, each in its preferred version.
pub(crate) async fn deletable(client: &kube::Client) -> Result<Vec<Kind>, Error> {
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .map_err(Error::api(|| "discover the served kinds"))?;
    let kinds = discovery
        .groups()
        .flat_map(|group| group.resources_by_stability());
    Ok(kinds.filter_map(Kind::of).collect())
}
