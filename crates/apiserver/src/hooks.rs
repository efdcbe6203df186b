//! Where policy enters the request chain: authentication, authorization, admission, charging and list filters.
//! The chain calls them in this order: [`Authenticate`], impersonation, audit, [`Authorize`] (or a [`ListFilter`]
//! for lists and watches that were not allowed), decode, [`Admit::mutate`], validation, [`Admit::validate`],
//! [`Charge`], transaction. All see the world through [`World`], which never waits.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use crate::object::Object;
use crate::status::ApiResult;
use crate::user::UserInfo;

/// What the server's watch caches hold, for policy decisions. Resources are named as in the store:
/// `core/pods`, `rbac.authorization.k8s.io/roles`. Reads are in memory and may be a moment behind the store.
pub trait World: Send + Sync {
    /// Looks up one object; `namespace` is empty for cluster-scoped resources.
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// Lists a resource, of one namespace or of all (`None`), in key order.
    fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>>;
    /// A number that changes whenever an object of the resource changes: compile rules once per generation.
    fn generation(&self, resource: &str) -> u64;
}

/// What a request wants to do, as the authorizer sees it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// Resource verb (`get`, `list`, `watch`, `create`, ...) or lower-case HTTP method for other paths.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural resource name; empty when `path` is meant.
    pub resource: &'a str,
    /// For example `status`; empty for none.
    pub subresource: &'a str,
    /// Empty for cluster scope or all namespaces.
    pub namespace: &'a str,
    /// Empty where the request names no object.
    pub name: &'a str,
    /// The URL path (also set for resource requests).
    pub path: &'a str,
    /// Whether this is a request for a resource, not for a plain path.
    pub is_resource: bool,
    /// The label selector of a list, watch or deletecollection, unparsed.
    pub label_selector: &'a str,
    /// The field selector of a list, watch or deletecollection, unparsed.
    pub field_selector: &'a str,
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes, nobody else is asked.
    Allow,
    /// No, nobody else is asked; the reason is shown.
    Deny(String),
    /// Ask the next; nobody's opinion is a no. The reason may be empty.
    NoOpinion(String),
}

/// The peer of a connection, put into the request's extensions by the accept loop.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The client's certificate chain, verified against the client CA; empty without one.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The client's address.
    pub address: Option<std::net::SocketAddr>,
}

/// Finds out who makes a request that came over a socket. In-process requests carry their [`UserInfo`] already.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// Tells the user, `None` when the request shows no credentials at all.
    ///
    /// # Errors
    /// 401 when credentials are shown but not valid.
    async fn authenticate(&self, request: &Parts, peer: &Peer) -> ApiResult<Option<UserInfo>>;
}

/// Decides whether a request may go on.
#[async_trait]
pub trait Authorize: Send + Sync {
    /// Decides. Must be quick: it is called for every request.
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change, by PUT or any patch.
    Update,
    /// A deletion.
    Delete,
    /// A subresource that opens a connection: exec, attach, portforward, proxy.
    Connect,
}

/// One write on its way through admission.
#[derive(Debug, Clone)]
pub struct Review {
    /// What is done.
    pub operation: Operation,
    /// API group, empty for core.
    pub group: String,
    /// The version of the request.
    pub version: String,
    /// Plural resource.
    pub resource: String,
    /// Empty for none.
    pub subresource: String,
    /// The kind of `object`.
    pub kind: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// May be empty on create with generateName until the name is made.
    pub name: String,
    /// Who does it.
    pub user: UserInfo,
    /// The new object (with defaults), `Value::Null` for deletes.
    pub object: Value,
    /// The object as it is stored, `Value::Null` for creates.
    pub old: Value,
    /// Create, update, patch or delete options as the client gave them.
    pub options: Value,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

impl Review {
    /// Names the resource as the store does, for example `core/pods`.
    pub fn store_resource(&self) -> String {
        store_resource(&self.group, &self.resource)
    }

    /// Tells whether this is about `group/resource` itself or, when `subresource` is given, that subresource.
    pub fn is(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource == subresource
    }
}

/// Names a resource as the store does: `core/pods`, `apps/deployments`.
pub fn store_resource(group: &str, resource: &str) -> String {
    match group {
        "" => format!("core/{resource}"),
        _ => format!("{group}/{resource}"),
    }
}

/// One admission plugin, or a chain of them.
#[async_trait]
pub trait Admit: Send + Sync {
    /// May change `review.object`. Called before validation; the object is defaulted again afterwards.
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()>;
    /// Accepts or refuses. Called after validation, with the final object.
    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()>;
}

/// Another object that must change in the same transaction as the write, for example a ResourceQuota.
#[derive(Debug, Clone)]
pub struct Charged {
    /// As the store names it: `core/resourcequotas`.
    pub resource: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revision that the charge was computed from ([`Object::revision`]).
    pub revision: u64,
    /// The object as it will be.
    pub value: Value,
}

/// Charges a write. Called again, with fresh objects, when another write came first; so concurrent writes never
/// overshoot and clients never see the conflict.
#[async_trait]
pub trait Charge: Send + Sync {
    /// Tells what else must be written, or refuses.
    async fn charge(&self, review: &Review, world: &dyn World) -> ApiResult<Vec<Charged>>;
}

/// Tells which objects a filtered list or watch may show.
pub type Visible = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// Lets users list what is theirs where they may not list everything.
pub trait ListFilter: Send + Sync {
    /// Asked for lists and watches that [`Authorize`] did not allow; `None` keeps the refusal.
    fn filter(&self, attributes: &Attributes<'_>, world: &Arc<dyn World>) -> Option<Visible>;
}
