//! The validated configuration: what every other module is handed.

mod backup;

pub use backup::{BackupSettings, Keep, Repository, Schedules};

use pgaa_core::ids::Name;
use pgaa_core::policy::Policy;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Everything the agent was told, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What decisions rest on.
    pub policy: Policy,
    /// This node.
    pub node: NodeSettings,
    /// Where peers are looked for.
    pub seeds: Vec<Seed>,
    /// Where the join token is read from, in this order; the first that exists counts.
    pub token_files: Vec<PathBuf>,
    /// The local PostgreSQL.
    pub postgres: PostgresSettings,
    /// Ports and addresses.
    pub network: NetworkSettings,
    /// The clock.
    pub clock: ClockSettings,
    /// `rows.compare_every_h`: how often all tables are compared as a whole; zero for never.
    pub compare_every: Duration,
    /// The backups.
    pub backup: BackupSettings,
    /// Where files are kept.
    pub paths: PathSettings,
    /// The log.
    pub log: LogSettings,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// `node.name`; the host's name by default.
    pub name: Name,
    /// `node.site`; empty by default.
    pub site: String,
    /// `node.replaces`: the dead node whose place this one takes.
    pub replaces: Option<String>,
}

/// One entry of `cluster.seeds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// An IP address, with the default gRPC port where none was given.
    Address(SocketAddr),
    /// A DNS name; SRV `_pgaa._tcp.<name>` is asked first, then AAAA and A with this port.
    Dns {
        /// The name.
        name: String,
        /// The port for A and AAAA answers.
        port: u16,
    },
    /// A program whose standard output lists addresses or names, one a line.
    Exec(PathBuf),
}

/// `[postgres]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// `postgres.data_dir`: where PG_VERSION lies.
    pub data_dir: PathBuf,
    /// `postgres.config_dir`: where postgresql.conf, pg_hba.conf and pg_ident.conf lie; the data
    /// directory itself on a bare layout.
    pub config_dir: PathBuf,
    /// `postgres.bin_dir`: where initdb, pg_ctl, pg_dump lie.
    pub bin_dir: PathBuf,
    /// `postgres.socket_dir`: where the server's Unix socket lies.
    pub socket_dir: PathBuf,
    /// `postgres.port`
    pub port: u16,
    /// `postgres.superuser`: the role the agent uses on the Unix socket.
    pub superuser: String,
    /// `postgres.mesh_role`: the role that other nodes' servers log in with.
    pub mesh_role: String,
    /// `postgres.owner`: owner of the database when the agent creates it; the superuser when unset.
    pub owner: Option<String>,
    /// `postgres.restart_command`: how this cluster is restarted, for `pgaa-agent restart` and
    /// before the node ever took writes. Empty: through the path unit.
    pub restart_command: Vec<String>,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// `network.listen`: the address gRPC and gossip listen on.
    pub listen: IpAddr,
    /// `network.advertise`: the address others are told; found from the route to the first peer
    /// when unset.
    pub advertise: Option<IpAddr>,
    /// `network.grpc_port` (TCP).
    pub grpc_port: u16,
    /// `network.gossip_port` (UDP).
    pub gossip_port: u16,
    /// `network.http`: health and metrics; `None` when switched off.
    pub http: Option<SocketAddr>,
    /// `network.profile`
    pub profile: NetworkProfile,
}

/// How patient gossip is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkProfile {
    /// Within one site: probe 0.5 s, suspicion 3 s.
    Lan,
    /// Between sites: probe 1.5 s, suspicion 8 s.
    Wan,
}

/// `[clock]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockSettings {
    /// `clock.chronyc`: the program to ask.
    pub chronyc: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// `log.level`: what is logged at most.
    pub level: log::LevelFilter,
}

/// `[paths]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathSettings {
    /// `paths.state_dir`: identity, certificates, roster, promises (0700).
    pub state_dir: PathBuf,
    /// `paths.run_dir`: the two Unix sockets.
    pub run_dir: PathBuf,
}

impl PathSettings {
    /// The socket that can do everything.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The socket for reading.
    #[must_use]
    pub fn read_socket(&self) -> PathBuf {
        self.run_dir.join("read.sock")
    }
}
