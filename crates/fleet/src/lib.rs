//! The fleet: inventory, provisioning, node pools, whole clusters, hosted control planes, images and probes.
//! [`start`] starts these controllers together with those of `machines` and `repair`.

pub mod admission;
pub mod cluster;
pub mod compute;
pub mod config;
pub mod host;
pub mod image;
pub mod plane;
pub mod pool;
pub mod probe;
pub mod retention;
mod start;
pub mod unbuilt;
pub mod validate;

pub use config::{
    ComposedImage, Context, FleetConfig, ImageBuilder, ImageError, Keep, PlaneError, PlaneHost, PlaneRequest,
    Providers, RunningPlane,
};
pub use probe::{Prober, SocketProber};
pub use start::{Fleet, start};
