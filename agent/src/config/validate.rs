//! Stage three: merged inputs become validated settings, or a list of everything that is wrong.
//!
//! Every check looks at all keys, also after a failure, so that one run names all problems.

mod backup;
mod postgres;

use super::fragment::Value;
use super::keys::{self, Default, KEYS};
use super::problem::{ConfigError, Origin, Problem};
use super::seeds;
use super::settings::{
    ClockSettings, LogSettings, NetworkProfile, NetworkSettings, NodeSettings, PathSettings,
    PostgresSettings, Seed, Settings,
};
use super::sources::Merged;
use pgaa_core::clock::ClockPolicy;
use pgaa_core::ids::Name;
use pgaa_core::policy::{ConflictResolution, Policy, SlotPolicy};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The longest path of a Unix socket, bytes (`sun_path` without its final zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What defaults depend on, beside the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The root of the file system in which PostgreSQL is looked for ("/").
    pub root: PathBuf,
    /// The host's name, as the kernel has it.
    pub host_name: String,
    /// `$CREDENTIALS_DIRECTORY`, where systemd keeps this service's credentials.
    pub credentials_dir: Option<PathBuf>,
}

/// Checks everything. Problems of the earlier stages are handed in, so that all are told at once.
pub fn validate(
    merged: &Merged,
    surroundings: &Surroundings,
    earlier: Vec<Problem>,
) -> Result<(Settings, Vec<Problem>), ConfigError> {
    let mut check = Check {
        merged,
        surroundings,
        problems: earlier,
        warnings: Vec::new(),
    };
    check.required();
    let settings = check.settings();
    if check.problems.is_empty() {
        return Ok((settings, check.warnings));
    }
    Err(ConfigError {
        problems: check.problems,
    })
}

struct Check<'a> {
    merged: &'a Merged,
    surroundings: &'a Surroundings,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// Stands for a name that was refused; settings with it never leave this module.
fn nameless() -> Name {
    // The literal is valid, so the second arm is never taken; it spares an unwrap.
    Name::new("x").unwrap_or_else(|_| nameless())
}

impl Check<'_> {
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        let origin = match self.merged.origin(key) {
            Origin::Default => Origin::File {
                path: self.merged.main_file().to_owned(),
                line: 0,
            },
            set @ (Origin::File { .. } | Origin::Environment(_)) => set,
        };
        self.problems.push(Problem::new(origin, key, text));
    }

    fn warning(&mut self, key: &str, text: impl Into<String>) {
        self.warnings
            .push(Problem::new(self.merged.origin(key), key, text));
    }

    /// Required keys that nobody set. One that was set wrongly, or misspelt, has been told of.
    fn required(&mut self) {
        // What an unreadable file sets can't be known, so nothing is known to be missing either.
        if self.problems.iter().any(|problem| problem.key.is_empty()) {
            return;
        }
        let told: Vec<&str> = self
            .problems
            .iter()
            .flat_map(|problem| [Some(problem.key.as_str()), keys::nearest(&problem.key)])
            .flatten()
            .collect();
        let missing: Vec<_> = KEYS
            .iter()
            .filter(|key| key.default == Default::Required && self.merged.set(key.name).is_none())
            .filter(|key| !told.contains(&key.name))
            .collect();
        for key in missing {
            let (section, leaf) = key.parts();
            let text = format!(
                "must be set; add {leaf} = {} below [{section}]",
                key.example
            );
            self.problem(key.name, text);
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.merged.value(key)? {
            Value::Text(text) => Some(text),
            Value::Integer(_) | Value::List(_) => None,
        }
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    fn list(&self, key: &str) -> Vec<String> {
        match self.merged.value(key) {
            Some(Value::List(list)) => list,
            Some(Value::Text(_) | Value::Integer(_)) | None => Vec::new(),
        }
    }

    /// A number whose bounds the table of keys keeps within the type it is asked for.
    fn number<T: TryFrom<i64> + std::default::Default>(&self, key: &str) -> T {
        match self.merged.value(key) {
            Some(Value::Integer(number)) => T::try_from(number).unwrap_or_default(),
            Some(Value::Text(_) | Value::List(_)) | None => T::default(),
        }
    }

    fn settings(&mut self) -> Settings {
        let network = self.network();
        let seeds = self.seeds(network.grpc_port);
        let policy = self.policy(&seeds);
        let postgres = self.postgres();
        self.ports(&network, &postgres);
        Settings {
            policy,
            node: self.node(),
            seeds,
            token_files: self.token_files(),
            postgres,
            network,
            clock: ClockSettings {
                chronyc: self.path("clock.chronyc").unwrap_or_default(),
            },
            compare_every: Duration::from_secs(3_600 * self.number::<u64>("rows.compare_every_h")),
            backup: self.backup(),
            paths: self.paths(),
            log: self.log(),
        }
    }

    fn policy(&mut self, seeds: &[Seed]) -> Policy {
        let cluster_name = self
            .text("cluster.name")
            .and_then(|text| self.name("cluster.name", &text));
        let expect: u16 = self.number("cluster.expect");
        let max_nodes: u16 = self.number("cluster.max_nodes");
        self.numbers(expect, max_nodes, seeds);
        let database = self.text("postgres.database").unwrap_or_default();
        self.identifier("postgres.database", &database);
        if database.starts_with("template") {
            self.problem(
                "postgres.database",
                format!("{database:?} is a template; name another"),
            );
        }
        Policy {
            cluster_name: cluster_name.unwrap_or_else(nameless),
            database,
            expect,
            max_nodes,
            founding_set: seeds::founding_set(seeds, expect),
            founding_wait: Duration::from_secs(self.number("cluster.founding_wait_s")),
            conflict_resolution: self.conflict_resolution(),
            excluded_schemas: self.list("postgres.excluded_schemas"),
            slots: self.slots(),
            clock: self.clock(),
            backup: self.backup_policy(),
        }
    }

    fn clock(&self) -> ClockPolicy {
        let offset = self.merged.set("clock.max_offset_ms");
        ClockPolicy {
            error_max: Duration::from_millis(self.number("clock.max_error_ms")),
            offset_max: offset.map(|_| Duration::from_millis(self.number("clock.max_offset_ms"))),
            strict: self.text("clock.mode").as_deref() == Some("strict"),
        }
    }

    fn slots(&mut self) -> SlotPolicy {
        let policy = SlotPolicy {
            budget_bytes: self
                .merged
                .set("slots.budget_mb")
                .map(|_| self.number::<u64>("slots.budget_mb") << 20),
            reserve_percent: self.number("slots.reserve_percent"),
            backstop_percent_max: self.number("slots.backstop_percent"),
            warn_percent: self.number("slots.warn_percent"),
            alarm_percent: self.number("slots.alarm_percent"),
            give_up_within: Duration::from_secs(self.number("slots.give_up_s")),
        };
        if policy.warn_percent > policy.alarm_percent {
            let text = format!(
                "{} would never be reached: slots.alarm_percent is {}",
                policy.warn_percent, policy.alarm_percent
            );
            self.problem("slots.warn_percent", text);
        }
        policy
    }

    /// How many found, how many there may be, and how many are named have to fit together.
    fn numbers(&mut self, expect: u16, max_nodes: u16, seeds: &[Seed]) {
        let literal = seeds::literal(seeds).len();
        let told = self
            .problems
            .iter()
            .any(|problem| problem.key.starts_with("cluster.seeds"));
        if expect == 0 || max_nodes == 0 {
            return; // Told already: required, or out of bounds.
        }
        if expect > max_nodes {
            let text = format!(
                "{expect} nodes can't found a cluster of at most {max_nodes} \
                                (cluster.max_nodes)"
            );
            self.problem("cluster.expect", text);
        }
        if literal > usize::from(expect) {
            let text = format!(
                "{literal} addresses, but only {expect} nodes found the cluster: two of them could \
                 found one each; name {expect}, or set cluster.expect = {literal}"
            );
            self.problem("cluster.seeds", text);
        }
        if seeds.is_empty() && expect > 1 && !told {
            let text = format!("must name where the other {} nodes are found", expect - 1);
            self.problem("cluster.seeds", text);
        }
    }

    fn conflict_resolution(&self) -> ConflictResolution {
        use ConflictResolution::{ApplyRemote, Error, KeepLocal, LastUpdateWins};
        let word = self.text("cluster.conflict_resolution").unwrap_or_default();
        let all = [LastUpdateWins, ApplyRemote, KeepLocal, Error];
        all.into_iter()
            .find(|one| one.as_setting() == word)
            .unwrap_or_default()
    }

    fn seeds(&mut self, port: u16) -> Vec<Seed> {
        let mut read: Vec<Seed> = Vec::new();
        for text in self.list("cluster.seeds") {
            match seeds::parse(&text, port) {
                Ok(seed) if read.contains(&seed) => {
                    self.problem("cluster.seeds", format!("{text:?} is listed twice"));
                }
                Ok(seed) => read.push(seed),
                Err(text) => self.problem("cluster.seeds", text),
            }
        }
        read
    }

    fn name(&mut self, key: &str, text: &str) -> Option<Name> {
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(error) => {
                let valid = valid_name(text);
                let near = valid.map(|name| format!("; did you mean \"{name}\"?"));
                self.problem(key, format!("{error}{}", near.unwrap_or_default()));
                None
            }
        }
    }

    fn node(&mut self) -> NodeSettings {
        let given = self.text("node.name");
        let name = match given {
            Some(text) => self.name("node.name", &text),
            None => {
                let derived = valid_name(&self.surroundings.host_name);
                if derived.is_none() {
                    let host = self.surroundings.host_name.clone();
                    let text = format!("must be set: the host's name {host:?} makes no valid one");
                    self.problem("node.name", text);
                }
                derived
            }
        };
        NodeSettings {
            name: name.unwrap_or_else(nameless),
            site: self.text("node.site").unwrap_or_default(),
            replaces: self.text("node.replaces").filter(|name| !name.is_empty()),
        }
    }

    fn token_files(&self) -> Vec<PathBuf> {
        if let Some(file) = self.path("cluster.token_file") {
            return vec![file];
        }
        let credential = self
            .surroundings
            .credentials_dir
            .iter()
            .map(|dir| dir.join("pgaa.token"));
        credential
            .chain([PathBuf::from("/etc/pgaa/token")])
            .collect()
    }

    fn network(&mut self) -> NetworkSettings {
        let listen = self
            .ip("network.listen")
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let advertise = self.ip("network.advertise");
        if advertise.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
            self.problem("network.advertise", "no other node can reach this address");
        }
        let wan = self
            .text("network.profile")
            .is_some_and(|word| word == "wan");
        NetworkSettings {
            listen,
            advertise,
            grpc_port: self.number("network.grpc_port"),
            gossip_port: self.number("network.gossip_port"),
            http: self.http(),
            profile: if wan {
                NetworkProfile::Wan
            } else {
                NetworkProfile::Lan
            },
        }
    }

    fn ip(&mut self, key: &str) -> Option<IpAddr> {
        let text = self.text(key)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.problem(key, format!("{text:?} is not an IP address"));
        }
        parsed
    }

    fn http(&mut self) -> Option<SocketAddr> {
        let text = self.text("network.http")?;
        if text == "off" {
            return None;
        }
        let address: Option<SocketAddr> = text.parse().ok().filter(|a: &SocketAddr| a.port() != 0);
        match address {
            None => self.problem(
                "network.http",
                format!(
                    "{text:?} is not an address with a port like \"127.0.0.1:7433\", nor \"off\""
                ),
            ),
            Some(address) if !address.ip().is_loopback() => self.warning(
                "network.http",
                format!(
                    "{address} can be reached from other machines, without encryption and \
                         without a password; 127.0.0.1 can't"
                ),
            ),
            Some(_) => {}
        }
        address
    }

    /// Two servers of one machine can't share a TCP port.
    fn ports(&mut self, network: &NetworkSettings, postgres: &PostgresSettings) {
        let grpc = network.grpc_port;
        if grpc == postgres.port {
            self.problem("network.grpc_port", format!("{grpc} is PostgreSQL's port"));
        }
        let http = network.http.map(|address| address.port());
        if http == Some(grpc) {
            self.problem("network.http", format!("port {grpc} is network.grpc_port"));
        } else if http == Some(postgres.port) {
            self.problem(
                "network.http",
                format!("port {} is PostgreSQL's", postgres.port),
            );
        }
    }

    fn paths(&mut self) -> PathSettings {
        let paths = PathSettings {
            state_dir: self.path("paths.state_dir").unwrap_or_default(),
            run_dir: self.path("paths.run_dir").unwrap_or_default(),
        };
        if paths.agent_socket().as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            let text = "is too long: a Unix socket in it would have a path of more than 107 bytes";
            self.problem("paths.run_dir", text);
        }
        paths
    }

    fn log(&self) -> LogSettings {
        let level = self.text("log.level").and_then(|word| word.parse().ok());
        LogSettings {
            level: level.unwrap_or(log::LevelFilter::Info),
        }
    }
}

/// A valid name as near to `text` as can be: the first label, in small letters.
fn valid_name(text: &str) -> Option<Name> {
    let label = text
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let dashed: String = label
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(32)
        .collect();
    Name::new(dashed.trim_matches('-')).ok()
}
