//! Small typed views of API objects: only the fields a controller decides on are kept in memory.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// What a [`crate::Cache`] can hold: any kube resource that decodes from JSON. Declare one with
/// [`projection!`](crate::projection!); k8s-openapi types fit too but cost about 20 kB an object.
pub trait Projection:
    kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static
{
}

impl<P> Projection for P where
    P: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static
{
}

/// Decodes object metadata without `managedFields`, by far its largest part.
pub fn slim_metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let mut meta = ObjectMeta::deserialize(from)?;
    meta.managed_fields = None;
    Ok(meta)
}

/// Declares a projection: a struct with `metadata` and the named top-level fields (each must implement
/// `Default`, `Clone`, `Debug` and `Deserialize`; absent fields take their default), and its kind.
#[macro_export]
macro_rules! projection {
    ($(#[$attr:meta])* $vis:vis struct $name:ident = $group:literal $version:literal $kind:literal $plural:literal
        $scope:ident { $($(#[$fattr:meta])* $fvis:vis $field:ident : $type:ty),* $(,)? }) => {
        $(#[$attr])*
        #[derive(Debug, Clone, Default, $crate::reexport::serde::Deserialize)]
        #[serde(crate = "mainstay_control::reexport::serde", rename_all = "camelCase")]
        $vis struct $name {
            /// Object metadata without `managedFields`.
            #[serde(deserialize_with = "mainstay_control::projection::slim_metadata")]
            pub metadata: $crate::reexport::ObjectMeta,
            $($(#[$fattr])* #[serde(default)] $fvis $field: $type,)*
        }

        impl $crate::reexport::kube::Resource for $name {
            type DynamicType = ();
            type Scope = $crate::projection!(@scope $scope);
            fn kind(_: &()) -> std::borrow::Cow<'_, str> { $kind.into() }
            fn group(_: &()) -> std::borrow::Cow<'_, str> { $group.into() }
            fn version(_: &()) -> std::borrow::Cow<'_, str> { $version.into() }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> { $plural.into() }
            fn meta(&self) -> &$crate::reexport::ObjectMeta { &self.metadata }
            fn meta_mut(&mut self) -> &mut $crate::reexport::ObjectMeta { &mut self.metadata }
        }
    };
    (@scope namespaced) => { $crate::reexport::NamespaceResourceScope };
    (@scope cluster) => { $crate::reexport::ClusterResourceScope };
}
