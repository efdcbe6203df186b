//! The provider trait and its implementations: what turns a host into a running machine and switches its power.
//!
//! A provider knows nothing of Kubernetes. Every call is idempotent by its request id, so a caller that crashed
//! repeats the call and gets the same task back.

mod error;
pub mod local;
pub mod sim;
mod slots;
mod types;

use async_trait::async_trait;

pub use error::{Error, Result};
pub use types::{
    BootIdentity, Capabilities, Hardware, HostId, HostSpec, ImageSlots, MachineState, PowerOperation,
    PowerState, ProvisionRequest, RequestId, Sku, Task, TaskKind, TaskState, Wipe,
};

/// One way to get machines. Calls return soon: long work is a [`Task`], read with [`Provider::task`].
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// The name in `providerID` (`mainstay://<name>/<namespace>/<computenode>`).
    fn name(&self) -> &'static str;

    /// What this provider can do; a caller asks before it plans a step.
    fn capabilities(&self) -> Capabilities;

    /// Reads what hardware the host has.
    async fn inventory(&self, host: &HostSpec) -> Result<Hardware>;

    /// Puts an image and the join data on the host and starts it. A lower incarnation than the host has seen is a
    /// [`Error::Conflict`].
    async fn provision(&self, request: ProvisionRequest) -> Result<Task>;

    /// Switches power. `On` of a running and `Off` of a stopped machine succeed without doing anything.
    async fn power(&self, host: &HostId, operation: PowerOperation, request: &RequestId) -> Result<Task>;

    /// Reads the power state back from the host itself; `Off` read here is a fencing proof.
    async fn power_state(&self, host: &HostId) -> Result<PowerState>;

    /// Identity of the running boot; `None` while no operating system runs. A changed boot id is a fencing proof.
    async fn boot_identity(&self, host: &HostId) -> Result<Option<BootIdentity>>;

    /// Stops the machine and removes its operating system, its data as `wipe` says. An empty host is no error.
    async fn deprovision(&self, host: &HostId, wipe: Wipe, request: &RequestId) -> Result<Task>;

    /// The last bytes of the console, at most `limit_bytes`.
    async fn console(&self, host: &HostId, limit_bytes: usize) -> Result<String>;

    /// Reads a task by the id of the request that made it, also after this process was restarted.
    async fn task(&self, request: &RequestId) -> Result<Task>;

    /// What stands on the host: incarnation, addresses, image slots. `None` on an empty host.
    async fn machine(&self, host: &HostId) -> Result<Option<MachineState>>;

    /// Writes a commit into the idle slot while the machine keeps working; the next start tries it.
    async fn stage_image(&self, host: &HostId, commit: &str, request: &RequestId) -> Result<Task>;

    /// Declares the booted commit good: it is what a failed later start falls back to.
    async fn confirm_image(&self, host: &HostId) -> Result<ImageSlots>;

    /// Makes the previous good commit the one of the next start and never tries the booted one again by itself.
    async fn rollback_image(&self, host: &HostId) -> Result<ImageSlots>;
}
