//! The command line: every command, flag and its help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::output::{ColorMode, Format, ProgressMode};

/// Where state lives unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/mainstay";

/// Runs production Kubernetes clusters on machines people own.
#[derive(Debug, Parser)]
#[command(
    name = "mainstay",
    version = crate::commands::version::TEXT,
    max_term_width = 100,
    disable_help_flag = true,
    after_help = "Examples:\n  \
                    mainstay up -f examples/local/   # start everything; then: mainstay status\n  \
                    mainstay why node/NAME           # one object's causes, and what happens next\n  \
                    mainstay explain                 # every failure id, and what exit codes mean\n\
                  Objects are kubectl's business; these commands are about causes and time."
)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command has.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// How to print answers: table, json or yaml
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        env = "MAINSTAY_OUTPUT",
        hide_possible_values = true,
        hide_default_value = true,
        hide_env_values = true,
        value_name = "FORM"
    )]
    pub output: Format,
    /// Progress on stderr: auto, plain, json or none
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        env = "MAINSTAY_PROGRESS",
        hide_possible_values = true,
        hide_default_value = true,
        hide_env_values = true,
        value_name = "FORM"
    )]
    pub progress: ProgressMode,
    /// When to use colour: auto, always or never (NO_COLOR wins)
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true,
        value_name = "WHEN"
    )]
    pub color: ColorMode,
    /// What to log, such as `info` or `mainstay_fleet=debug`
    #[arg(
        long,
        global = true,
        env = "MAINSTAY_LOG",
        hide_env_values = true,
        value_name = "FILTER"
    )]
    pub log: Option<String>,
    /// Print help
    #[arg(short = 'h', long = "help", global = true, action = clap::ArgAction::HelpShort)]
    pub help: Option<bool>,
    /// Print help with every flag, also those that few people need
    #[arg(long, global = true, action = clap::ArgAction::HelpLong)]
    pub help_all: Option<bool>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine and bring it to what the manifests say
    #[command(after_help = "Examples:\n  \
                           mainstay up -f examples/local/              # start, apply, wait until all is ready\n  \
                           mainstay up -f cluster.yaml --dry-run        # check the computer and the manifests only\n  \
                           mainstay up --ignore memory --no-wait        # skip one finding by its name; do not wait")]
    Up(UpArgs),
    /// Stop and undo everything that `up` made
    #[command(after_help = "Examples:\n  \
                           mainstay down                 # asks first; composed images are kept\n  \
                           mainstay down --plan          # show what would be undone\n  \
                           mainstay down --yes --purge   # everything, without asking")]
    Down(DownArgs),
    /// Show how the installation is, in one screen
    #[command(after_help = "Examples:\n  \
                           mainstay status\n  \
                           mainstay status -o json   # exit code 1 when something is not well")]
    Status(Target),
    /// Explain what is not healthy, why, and what happens next
    #[command(after_help = "Examples:\n  \
                           mainstay doctor         # what is not well, since when, what happens next\n  \
                           mainstay doctor --pre   # only what this computer lacks; changes nothing")]
    Doctor(DoctorArgs),
    /// Explain one object: why is it as it is (for example `why host/h1`)
    #[command(after_help = "Examples:\n  \
                           mainstay why host/h1\n  \
                           mainstay why node/demo-a-x7k2p\n  \
                           mainstay why pod/web-0 -n shop --cluster demo")]
    Why(WhyArgs),
    /// Crash or restart the machine on a host, to watch it heal
    #[command(after_help = "Examples:\n  \
                           mainstay host crash h1     # then: mainstay why host/h1")]
    Host(HostArgs),
    /// Print the kubeconfig of the management cluster or of a cluster
    #[command(after_help = "Examples:\n  \
                           mainstay kubeconfig > admin.kubeconfig        # the management cluster\n  \
                           mainstay kubeconfig demo > demo.kubeconfig    # a cluster it made\n  \
                           mainstay kubeconfig --user alice > alice.kubeconfig")]
    Kubeconfig(KubeconfigArgs),
    /// Run one bare control plane: API server and store, nothing else
    #[command(after_help = "Examples:\n  \
                           mainstay server --data-dir /tmp/d                 # then: /tmp/d/admin.kubeconfig\n  \
                           mainstay server --data-dir D --etcd-servers http://127.0.0.1:2379\n\
                         More flags (TLS for etcd, audit): the book's page on the control plane")]
    Server(ServerArgs),
    /// Write a control plane's objects to a file
    #[command(after_help = "Examples:\n  \
                           mainstay backup plane.snapshot --data-dir D\n  \
                           mainstay backup plane.snapshot --etcd-servers http://127.0.0.1:2379")]
    Backup(SnapshotArgs),
    /// Replace a control plane's objects by those in a backup
    #[command(after_help = "Examples:\n  \
                           mainstay restore plane.snapshot --data-dir D\n  \
                           mainstay restore plane.snapshot --etcd-servers http://127.0.0.1:2379")]
    Restore(SnapshotArgs),
    /// Run the node agent on this machine
    #[command(after_help = "Examples:\n  \
                           mainstay node --join /etc/mainstay/node.json")]
    Node(NodeArgs),
    /// Run node problem detection on this machine
    #[command(after_help = "Examples:\n  \
                           mainstay detect                                        # the built-in rules\n  \
                           mainstay detect --config.system-log-monitor kernel-monitor.json")]
    Detect(DetectArgs),
    /// Compose operating system images and look at them
    #[command(after_help = "Examples:\n  \
                           mainstay os compose node.yaml --repo /srv/repo")]
    Os(OsArgs),
    /// Try decisions on a scenario without touching anything
    #[command(after_help = "Examples:\n  \
                           mainstay simulate repair --seed 7 --schedules 1000\n  \
                           mainstay simulate autoscaler cases.jsonl")]
    Simulate(SimulateArgs),
    /// Explain a failure by its id, for example MS-PRE-0001
    #[command(after_help = "Examples:\n  \
                           mainstay explain MS-PRE-0005\n  \
                           mainstay explain               # all ids, and the exit codes")]
    Explain(ExplainArgs),
    /// Print the version
    #[command(after_help = "Examples:\n  \
                           mainstay version -o json")]
    Version,
    /// Print shell completions
    #[command(after_help = "Examples:\n  \
                           mainstay completions bash > /etc/bash_completion.d/mainstay")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// The first process of a local machine
    #[command(hide = true)]
    Init(InitArgs),
    /// The background process that `up` starts
    #[command(hide = true)]
    Manage(ManageArgs),
}

/// The data directory alone.
#[derive(Debug, Clone, ClapArgs)]
pub struct DataDir {
    /// Where state lives
    #[arg(long, default_value = DEFAULT_DATA_DIR, env = "MAINSTAY_DATA_DIR", hide_env_values = true, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// Which management cluster is meant.
#[derive(Debug, Clone, ClapArgs)]
pub struct Target {
    #[command(flatten)]
    pub data: DataDir,
    /// Reach the management cluster by this kubeconfig, not by the data directory
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Flags of `up`.
#[derive(Debug, ClapArgs)]
pub struct UpArgs {
    /// Manifests to apply: a file or a folder; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub data: DataDir,
    /// Where the management API listens
    #[arg(long, default_value = "127.0.0.1:7443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the dashboard listens
    #[arg(long, default_value = "127.0.0.1:7480", value_name = "ADDRESS")]
    pub dashboard: SocketAddr,
    /// The bridge's subnet for local machines
    #[arg(long, default_value = "10.89.0.0/24", value_name = "CIDR")]
    pub bridge: String,
    /// Skip a preflight finding by its name; may be given several times
    #[arg(long, value_name = "NAME")]
    pub ignore: Vec<String>,
    /// Do not wait until everything is ready
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 1200, value_name = "SECONDS")]
    pub timeout: u64,
    /// Only look: run the preflight and check the manifests, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Flags of `down`.
#[derive(Debug, ClapArgs)]
pub struct DownArgs {
    #[command(flatten)]
    pub data: DataDir,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Show what would be undone, change nothing
    #[arg(long)]
    pub plan: bool,
    /// Remove the cache of composed images too
    #[arg(long)]
    pub purge: bool,
}

/// Flags of `doctor`.
#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub target: Target,
    /// Show what is well too
    #[arg(long)]
    pub all: bool,
    /// Only the preflight of this machine
    #[arg(long)]
    pub pre: bool,
}

/// Flags of `why`.
#[derive(Debug, ClapArgs)]
pub struct WhyArgs {
    /// What to explain: host/h1, node/n1, machine/m1, pod/web-0, pool/a, cluster/demo, image/node
    #[arg(value_name = "KIND/NAME")]
    pub object: String,
    /// Its namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// The cluster that has the pod or node; looked for in all of them without it
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    #[command(flatten)]
    pub target: Target,
}

/// `host` and its commands.
#[derive(Debug, ClapArgs)]
pub struct HostArgs {
    #[command(subcommand)]
    pub command: HostCommand,
}

/// What can be done to a host's machine by hand.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// End its local machine at once, as a power failure does; the repair ladder brings it back
    Crash(HostTarget),
    /// Restart its machine once
    Restart(HostTarget),
}

/// Which host.
#[derive(Debug, ClapArgs)]
pub struct HostTarget {
    /// The host's name, or that of the node on it
    pub name: String,
    /// The host's namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    #[command(flatten)]
    pub data: DataDir,
}

/// Flags of `kubeconfig`.
#[derive(Debug, ClapArgs)]
pub struct KubeconfigArgs {
    /// A cluster's name; the management cluster without it
    pub cluster: Option<String>,
    /// The cluster's namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Of this user, with a certificate of its own
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A group of the user; up to two
    #[arg(long = "group", value_name = "NAME", requires = "user")]
    pub groups: Vec<String>,
    /// How long the user's certificate is good for
    #[arg(long, default_value_t = 24, value_name = "HOURS", requires = "user")]
    pub hours: u32,
    #[command(flatten)]
    pub target: Target,
}

/// Which store: the embedded one of a data directory, or etcd.
#[derive(Debug, Clone, ClapArgs)]
pub struct StorageArgs {
    #[command(flatten)]
    pub data: DataDir,
    /// Use this etcd instead of the embedded store
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd_servers: Vec<String>,
    /// The authority that signed etcd's serving certificates
    #[arg(long, hide_short_help = true, value_name = "FILE", requires = "etcd_servers")]
    pub etcd_cafile: Option<PathBuf>,
    /// Our client certificate for etcd
    #[arg(long, hide_short_help = true, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, hide_short_help = true, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
}

/// Flags of `server`.
#[derive(Debug, ClapArgs)]
pub struct ServerArgs {
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Static tokens, one `token,user,uid,"group1,group2"` per line
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Ask the server of this kubeconfig whose a token is (TokenReview)
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are believed, in seconds
    #[arg(long, hide_short_help = true, default_value_t = 120, value_name = "SECONDS")]
    pub authentication_token_webhook_cache_ttl: u64,
    /// Built-in admission plugins to leave out
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub disable_admission_plugins: Vec<String>,
    /// What is noted in the audit log (audit.k8s.io/v1 Policy); writes and reads of secrets without it
    #[arg(
        long,
        hide_short_help = true,
        value_name = "FILE",
        requires = "audit_log_path"
    )]
    pub audit_policy_file: Option<PathBuf>,
    /// Note requests in this file as JSON lines; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// The size at which the audit log is turned over, in megabytes
    #[arg(long, hide_short_help = true, default_value_t = 100, value_name = "MB")]
    pub audit_log_maxsize: u64,
    /// Old audit logs that are kept; 0 keeps all
    #[arg(long, hide_short_help = true, default_value_t = 10, value_name = "COUNT")]
    pub audit_log_maxbackup: usize,
    /// Requests worked on at once in each lane: tenants; nodes and components
    #[arg(long, default_value_t = 400, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_requests_inflight: u32,
}

/// Flags of `backup` and `restore`.
#[derive(Debug, ClapArgs)]
pub struct SnapshotArgs {
    /// The snapshot file
    pub file: PathBuf,
    #[command(flatten)]
    pub storage: StorageArgs,
    /// Which one: `server`, or the uid of an installation's plane
    #[arg(long, default_value = "server", value_name = "UID")]
    pub plane: String,
}

/// Flags of `node`.
#[derive(Debug, ClapArgs)]
pub struct NodeArgs {
    /// Join data (NodeConfig); /etc/mainstay/node.json without a kubeconfig
    #[arg(long, alias = "node-config", value_name = "FILE")]
    pub join: Option<PathBuf>,
    /// A KubeletConfiguration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A folder with `*.conf` files that are put over `--config` in the order of their names
    #[arg(long, hide_short_help = true, value_name = "FOLDER")]
    pub config_dir: Option<PathBuf>,
    /// Join by this kubeconfig instead of join data; made when `--bootstrap-kubeconfig` joins and it is missing
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig with which a node without a certificate asks for one
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where certificates are kept; `pki` below the root folder without it
    #[arg(long, hide_short_help = true, value_name = "FOLDER")]
    pub cert_dir: Option<PathBuf>,
    /// Where pods' volumes are kept
    #[arg(
        long,
        hide_short_help = true,
        default_value = "/var/lib/kubelet",
        value_name = "FOLDER"
    )]
    pub root_dir: PathBuf,
    /// The node's name
    #[arg(long, hide_short_help = true, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The address to report; the one that faces the API server without it
    #[arg(long, hide_short_help = true, value_name = "ADDRESS")]
    pub node_ip: Option<std::net::IpAddr>,
    /// Labels of the Node object: `a=1,b=2`
    #[arg(long, hide_short_help = true, value_name = "PAIRS")]
    pub node_labels: Vec<String>,
    /// Facts of a local machine, whose kernel shows those of its host
    #[arg(
        long,
        default_value = "/run/mainstay/machine/machine.json",
        value_name = "FILE"
    )]
    pub machine_facts: PathBuf,
    #[command(flatten)]
    pub kubelet: crate::commands::node::flags::KubeletFlags,
}

/// Flags of `detect`.
#[derive(Debug, ClapArgs)]
pub struct DetectArgs {
    /// System log monitor configurations
    #[arg(
        long = "config.system-log-monitor",
        value_delimiter = ',',
        value_name = "FILES"
    )]
    pub system_log_monitor: Vec<PathBuf>,
    /// Custom plugin monitor configurations
    #[arg(
        long = "config.custom-plugin-monitor",
        value_delimiter = ',',
        value_name = "FILES"
    )]
    pub custom_plugin_monitor: Vec<PathBuf>,
    /// The node's join data; its certificate is used to reach the API
    #[arg(
        long,
        alias = "join",
        default_value = "/etc/mainstay/node.json",
        value_name = "FILE"
    )]
    pub node_config: PathBuf,
    /// Reach the API by this kubeconfig instead, as the node `--hostname-override`
    #[arg(long, value_name = "FILE", requires = "hostname_override")]
    pub kubeconfig: Option<PathBuf>,
    /// The node's name with `--kubeconfig`
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub hostname_override: Option<String>,
}

/// `os` and its commands.
#[derive(Debug, ClapArgs)]
pub struct OsArgs {
    #[command(subcommand)]
    pub command: OsCommand,
}

/// Commands about images.
#[derive(Debug, Subcommand)]
pub enum OsCommand {
    /// Compose a treefile into a commit (takes rpm-ostree's flags)
    Compose(ComposeArgs),
}

/// Flags of `os compose`.
#[derive(Debug, ClapArgs)]
pub struct ComposeArgs {
    /// The treefile, JSON or YAML; `.repo` files lie beside it
    pub treefile: PathBuf,
    /// The repository that gets the commit; made when absent
    #[arg(long, value_name = "DIR")]
    pub repo: PathBuf,
    /// Where downloads and base layers are kept
    #[arg(long, value_name = "DIR")]
    pub cachedir: Option<PathBuf>,
    /// Accepted for rpm-ostree's sake: this is the only mode
    #[arg(long)]
    pub unified_core: bool,
}

/// `simulate` and its commands.
#[derive(Debug, ClapArgs)]
pub struct SimulateArgs {
    #[command(subcommand)]
    pub command: SimulateCommand,
}

/// What can be simulated.
#[derive(Debug, Subcommand)]
pub enum SimulateCommand {
    /// The repair ladder against random faults; prints what broke an invariant
    Repair {
        /// The first schedule's seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many schedules
        #[arg(long, default_value_t = 100)]
        schedules: u32,
    },
    /// The cluster autoscaler over a scenario file (one JSON case per line)
    Autoscaler {
        /// The scenarios
        file: PathBuf,
    },
}

/// Flags of `explain`.
#[derive(Debug, ClapArgs)]
pub struct ExplainArgs {
    /// The id; all of them without it
    pub id: Option<String>,
}

/// Flags of `init`.
#[derive(Debug, ClapArgs)]
pub struct InitArgs {
    /// What the provider passes on
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<String>,
}

/// Flags of `manage`.
#[derive(Debug, ClapArgs)]
pub struct ManageArgs {
    #[command(flatten)]
    pub data: DataDir,
    #[arg(long)]
    pub listen: SocketAddr,
    #[arg(long)]
    pub dashboard: SocketAddr,
    #[arg(long)]
    pub bridge: String,
}
