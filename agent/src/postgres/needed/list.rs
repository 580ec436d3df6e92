//! How each setting is decided on.

use super::super::conf::{Assigned, split_list};
use super::super::layout::Kind;
use super::{Inputs, Item, Needed, Note, Rule};
use pgaa_core::backup::archiving::LETS_GO;
use pgaa_core::guard;
use std::path::Path;

/// The list while it is made.
pub struct List<'a> {
    inputs: Inputs<'a>,
    needed: Needed,
}

impl<'a> List<'a> {
    /// An empty list.
    pub fn new(inputs: Inputs<'a>) -> List<'a> {
        List {
            inputs,
            needed: Needed::default(),
        }
    }

    /// With everything that is needed.
    pub fn complete(mut self) -> Needed {
        self.replication();
        self.sizes();
        self.pglogical();
        self.logging();
        self.wal();
        self.certificates();
        self.addresses();
        self.needed
    }

    fn foreign(&self, name: &str) -> Option<&'a Assigned> {
        self.inputs.foreign.get(name)
    }

    fn foreign_value(&self, name: &str) -> Option<&'a str> {
        self.foreign(name).map(|assigned| assigned.value.as_str())
    }

    fn add(&mut self, name: &'static str, value: Option<String>, rule: Rule, reason: &str) {
        let needs_restart = RESTART.contains(&name);
        self.needed.items.push(Item {
            name,
            value,
            rule,
            needs_restart,
            reason: reason.to_owned(),
        });
    }

    /// A setting that has to have this value.
    fn exactly(&mut self, name: &'static str, value: &str, reason: &str) {
        self.add(
            name,
            Some(value.to_owned()),
            Rule::OneOf(vec![value.to_owned()]),
            reason,
        );
    }

    /// A number that has to be this large; the operator's stays when it is larger.
    fn at_least(&mut self, name: &'static str, default: u32, least: u32, reason: &str) {
        let theirs = self
            .foreign_value(name)
            .and_then(|value| value.parse().ok());
        let value = least.max(theirs.unwrap_or(default));
        self.add(
            name,
            Some(value.to_string()),
            Rule::AtLeast(i64::from(least)),
            reason,
        );
    }

    /// A list that has to have `element`; the operator's elements stay, in their order.
    fn with_element(&mut self, name: &'static str, default: &str, element: &str, reason: &str) {
        let theirs = self.foreign_value(name).unwrap_or(default).trim();
        let plain = |entry: &String| entry.rsplit('/').next() == Some(element);
        let value = if split_list(theirs).iter().any(plain) {
            theirs.to_owned()
        } else if theirs.is_empty() {
            element.to_owned()
        } else {
            format!("{theirs}, {element}")
        };
        self.add(
            name,
            Some(value),
            Rule::Includes(element.to_owned()),
            reason,
        );
    }

    fn note(&mut self, feature: &'static str, why: String, remedy: &str) {
        self.needed.notes.push(Note {
            feature,
            why,
            remedy: remedy.to_owned(),
        });
    }

    fn replication(&mut self) {
        self.exactly(
            "wal_level",
            "logical",
            "the WAL has to hold what other nodes apply",
        );
        self.exactly(
            "track_commit_timestamp",
            "on",
            "the last update wins by the time of its commit",
        );
        self.with_element(
            "shared_preload_libraries",
            "",
            "pglogical",
            "pglogical starts with the server; your libraries stay before it",
        );
        if let Some(default) = self.inputs.output_plugins {
            self.with_element(
                "output_plugin_libraries",
                default,
                "pglogical_output",
                "servers since August 2026 refuse output plug-ins that aren't listed",
            );
        }
    }

    /// Sized for `max_nodes` (N), so that a node that joins later costs no restart.
    fn sizes(&mut self) {
        let policy = &self.inputs.settings.policy;
        let nodes = u32::from(policy.max_nodes.max(policy.expect).max(2));
        let others = nodes - 1;
        self.at_least(
            "max_replication_slots",
            10,
            2 * others + ORIGINS_BESIDE_PEERS + 2 * nodes,
            "bounds slots (two per peer) and origins (per peer, copy and repair; those of \
             forgotten nodes are kept)",
        );
        self.at_least(
            "max_wal_senders",
            10,
            2 * others + SENDERS_SPARE,
            "two per peer, the rest for backups and standbys",
        );
        self.at_least(
            "max_worker_processes",
            8,
            // Supervisor and a manager per database that is looked at, apply and sync workers.
            2 + 2 * others + WORKERS_SPARE,
            "pglogical runs two per peer beside its own; the rest is for parallel queries",
        );
    }

    fn pglogical(&mut self) {
        let strategy = self.inputs.settings.policy.conflict_resolution.as_setting();
        self.exactly(
            "pglogical.conflict_resolution",
            strategy,
            "the same on every node",
        );
        self.exactly(
            "pglogical.conflict_log_level",
            "log",
            "conflicts are known from the log alone",
        );
        self.exactly(
            "pglogical.synchronous_commit",
            "off",
            "apply is three times slower with it; a crash is caught up from the peers' slots",
        );
    }

    /// The JSON log, which is the only place where conflicts are told.
    fn logging(&mut self) {
        self.mute_settings();
        let collected = self.foreign_value("logging_collector").is_some_and(is_on);
        let by_hand: Vec<String> = LOGGING
            .iter()
            .filter_map(|name| Some(format!("{name} ({})", self.foreign(name)?.place())))
            .collect();
        if collected {
            self.collected_by_hand();
        } else if by_hand.is_empty() {
            self.own_log();
        } else {
            let why = format!("logging was configured by hand: {}", by_hand.join(", "));
            let remedy =
                "set logging_collector = on and add jsonlog to log_destination, then restart";
            self.note(CONFLICT_LOG, why, remedy);
        }
    }

    /// What keeps conflicts, or their rows, out of every log.
    fn mute_settings(&mut self) {
        let says = |name: &str, words: &[&str]| {
            self.foreign_value(name)
                .is_some_and(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
        };
        let terse = says("log_error_verbosity", &["terse"]);
        let quiet = says("log_min_messages", &["fatal", "panic"]);
        if terse {
            let why = "log_error_verbosity is terse, so conflicts are logged without their rows";
            self.note(
                CONFLICT_LOG,
                why.to_owned(),
                "set log_error_verbosity = default",
            );
        }
        if quiet {
            let why = "log_min_messages keeps conflicts out of the log";
            self.note(
                CONFLICT_LOG,
                why.to_owned(),
                "set log_min_messages = warning",
            );
        }
    }

    /// The operator's own logging collector: its list of destinations is added to. A file that
    /// takes a whole day's lines could not be bounded, so then nothing is added.
    fn collected_by_hand(&mut self) {
        let theirs = self.foreign_value("log_destination").unwrap_or("stderr");
        let json = split_list(theirs).iter().any(|entry| entry == "jsonlog");
        let name = self.foreign("log_filename");
        if let Some(name) = name.filter(|set| !json && !set.value.contains("%S")) {
            let why = format!(
                "log_filename ({}) has no %S, so a JSON log could not be rotated by its size",
                name.place()
            );
            let remedy = "set log_filename = 'postgresql-%Y-%m-%d_%H%M%S.log', or add jsonlog to \
                          log_destination yourself; then pgaa-agent provision";
            self.note(CONFLICT_LOG, why, remedy);
            return;
        }
        self.with_element("log_destination", "stderr", "jsonlog", JSON_REASON);
    }

    /// A directory of files of a bounded size, the oldest of which the agent removes: conflicts
    /// are a line of a kilobyte each, and every one is there twice, for people and in JSON.
    fn own_log(&mut self) {
        self.with_element("log_destination", "stderr", "jsonlog", JSON_REASON);
        self.exactly("logging_collector", "on", "writes the JSON log");
        let directory = match self.inputs.kind {
            Kind::Debian { version, name } => format!("/var/log/postgresql/{version}-{name}"),
            Kind::Bare => "log".to_owned(),
        };
        self.exactly(
            "log_directory",
            &directory,
            "of its own, so that old files in it can be removed: the agent keeps half a gigabyte",
        );
        self.exactly(
            "log_filename",
            "postgresql-%Y-%m-%d_%H%M%S.log",
            "a new name for each file",
        );
        self.add(
            "log_rotation_size",
            Some("16MB".to_owned()),
            Rule::OneOf(vec!["16384".to_owned()]),
            "small files can be removed one by one",
        );
        self.exactly(
            "log_truncate_on_rotation",
            "off",
            "nothing is lost before it was read",
        );
    }

    fn wal(&mut self) {
        self.archive();
        let policy = &self.inputs.settings.policy.slots;
        let wanted = guard::backstop(policy, &self.inputs.disk);
        let written = self.inputs.backstop_bytes;
        let near = written.filter(|written| !guard::misplaced(*written, wanted));
        let keep_mb = near.unwrap_or(wanted) / (1 << 20);
        if self.foreign("max_slot_wal_keep_size").is_none() && keep_mb > 0 {
            self.add(
                "max_slot_wal_keep_size",
                Some(format!("{keep_mb}MB")),
                // It follows the disk, and only a limit that is far off is worth a word.
                Rule::AtLeast(i64::try_from(keep_mb / 2).unwrap_or(i64::MAX)),
                "above what the agent lets slots hold back, for the time in which it doesn't run: \
                 a slot gives way before the disk is full",
            );
        }
        // Below a minute, large transactions are cut off and sent again for ever.
        let theirs = self
            .foreign_value("wal_sender_timeout")
            .and_then(milliseconds);
        let short = theirs.is_some_and(|ms| ms != 0 && ms < SENDER_TIMEOUT_MS_MIN);
        self.add(
            "wal_sender_timeout",
            short.then(|| format!("{SENDER_TIMEOUT_MS_MIN}ms")),
            Rule::AtLeastOrZero(SENDER_TIMEOUT_MS_MIN),
            "large transactions would be sent again for ever with less",
        );
    }

    fn archive(&mut self) {
        let theirs = ["archive_command", "archive_library"]
            .into_iter()
            .find_map(|name| {
                let assigned = self.foreign(name)?;
                (!matches!(assigned.value.trim(), "" | "/bin/true"))
                    .then(|| (name, assigned.place()))
            });
        if let Some((name, place)) = theirs {
            let why = format!("{name} is set at {place}; it stays as it is");
            self.note(
                "backups",
                why,
                "remove it there if pgaa-agent is to archive",
            );
            return;
        }
        let always = self
            .foreign_value("archive_mode")
            .is_some_and(|v| v == "always");
        let right = Rule::OneOf(vec!["on".to_owned(), "always".to_owned()]);
        let value = if always { "always" } else { "on" };
        self.add(
            "archive_mode",
            Some(value.to_owned()),
            right,
            "so that this node can own the backups later without a restart",
        );
        let Some(command) = self.inputs.archive else {
            self.exactly(
                "archive_command",
                LETS_GO,
                "nothing is archived while another node does it",
            );
            return;
        };
        self.exactly(
            "archive_command",
            command,
            "this node owns the backups, or hands them over",
        );
        let timeout_s = self.inputs.settings.backup.archive_timeout_s;
        if timeout_s > 0 && self.foreign("archive_timeout").is_none() {
            self.exactly(
                "archive_timeout",
                &timeout_s.to_string(),
                "how old a change gets before its WAL is archived",
            );
        }
    }

    fn certificates(&mut self) {
        let tls = self.inputs.tls;
        let cert = self.foreign("ssl_cert_file");
        let theirs =
            cert.filter(|set| set.value != SNAKEOIL && Path::new(&set.value) != tls.certificate);
        let ca = self.foreign("ssl_ca_file");
        let their_ca = ca.filter(|set| set.value != DEBIAN_ROOT && Path::new(&set.value) != tls.ca);
        // With ssl = on and no ssl_cert_file, server.crt in the data directory is in use.
        let by_default = self
            .foreign("ssl")
            .filter(|set| is_on(&set.value) && cert.is_none());
        if let Some(set) = theirs.or(their_ca).or(by_default) {
            let why = format!("PostgreSQL has a certificate of its own ({})", set.place());
            let remedy = "nodes recognise one another by the mesh's certificates: remove ssl_cert_file, \
                ssl_key_file and ssl_ca_file there, then run pgaa-agent provision";
            self.note("certificates", why, remedy);
            return;
        }
        self.exactly("ssl", "on", "nodes talk to one another over TLS only");
        self.exactly(
            "ssl_cert_file",
            &tls.certificate.to_string_lossy(),
            "this node's certificate",
        );
        self.exactly("ssl_key_file", &tls.key.to_string_lossy(), "its key");
        self.exactly(
            "ssl_ca_file",
            &tls.ca.to_string_lossy(),
            "who signs the members' certificates",
        );
    }

    fn addresses(&mut self) {
        let settings = self.inputs.settings;
        if let Some(set) = self.foreign("listen_addresses") {
            let local = |address: &String| {
                matches!(address.as_str(), "localhost" | "::1") || address.starts_with("127.")
            };
            if split_list(&set.value).iter().all(local) && !settings.network.listen.is_loopback() {
                let why = format!("listen_addresses = '{}' ({})", set.value, set.place());
                self.note(
                    "replication",
                    why,
                    "other nodes can't connect: set it to '*' and restart",
                );
            }
        } else {
            let listen = settings.network.listen;
            let value = if listen.is_loopback() {
                listen.to_string()
            } else {
                "*".to_owned()
            };
            self.exactly(
                "listen_addresses",
                &value,
                "other nodes connect to this one",
            );
        }
        self.port();
        self.socket();
    }

    fn port(&mut self) {
        let wanted = self.inputs.settings.postgres.port.to_string();
        match self.foreign("port") {
            Some(set) if set.value == wanted => {}
            Some(set) => {
                let why = format!("port = {} ({})", set.value, set.place());
                self.note(
                    "replication",
                    why,
                    "set postgres.port in /etc/pgaa/agent.toml to the same",
                );
            }
            None => self.exactly("port", &wanted, "as configured for pgaa-agent"),
        }
    }

    fn socket(&mut self) {
        let wanted = self
            .inputs
            .settings
            .postgres
            .socket_dir
            .to_string_lossy()
            .into_owned();
        // Debian's /var/run is a link to /run: both are one directory.
        let plain = |path: &str| {
            path.strip_prefix("/var/run")
                .map_or(path.to_owned(), |p| format!("/run{p}"))
        };
        match self.foreign("unix_socket_directories") {
            Some(set)
                if split_list(&set.value)
                    .iter()
                    .any(|dir| plain(dir) == plain(&wanted)) => {}
            Some(set) => {
                let why = format!(
                    "unix_socket_directories = '{}' ({})",
                    set.value,
                    set.place()
                );
                self.note(
                    "agent",
                    why,
                    "set postgres.socket_dir in /etc/pgaa/agent.toml to one of them",
                );
            }
            None => self.exactly(
                "unix_socket_directories",
                &wanted,
                "as configured for pgaa-agent",
            ),
        }
    }
}

/// Debian's placeholder certificate: nobody chose it.
const SNAKEOIL: &str = "/etc/ssl/certs/ssl-cert-snakeoil.pem";
/// Debian's placeholder for a client CA.
const DEBIAN_ROOT: &str = "/etc/postgresql-common/root.crt";
/// Origins for the parallel copies of a join, and some of the operator's own.
const ORIGINS_BESIDE_PEERS: u32 = 10;
/// Backups, standbys and a person with pg_basebackup.
const SENDERS_SPARE: u32 = 6;
/// PostgreSQL's own default of 8 for parallel queries, the launcher, and other extensions'.
const WORKERS_SPARE: u32 = 12;
/// PostgreSQL's default, below which bdr#233 was seen.
const SENDER_TIMEOUT_MS_MIN: i64 = 60_000;

/// The feature that is off when conflicts can't be read.
const CONFLICT_LOG: &str = "conflict log";
/// Why there is a JSON log.
const JSON_REASON: &str = "the agent reads conflicts from the JSON log";
/// Who sets one of these has an opinion on logging.
const LOGGING: [&str; 6] = [
    "logging_collector",
    "log_destination",
    "log_directory",
    "log_filename",
    "log_rotation_size",
    "log_truncate_on_rotation",
];

/// Those of our settings that only a restart changes (`pg_settings.context = 'postmaster'`).
const RESTART: [&str; 11] = [
    "wal_level",
    "track_commit_timestamp",
    "shared_preload_libraries",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "logging_collector",
    "archive_mode",
    "listen_addresses",
    "port",
    "unix_socket_directories",
];

/// PostgreSQL's spellings of true (`parse_bool`), as far as people use them.
fn is_on(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "on" | "true" | "yes" | "1"
    )
}

/// A time setting whose plain unit is the millisecond.
fn milliseconds(value: &str) -> Option<i64> {
    let value = value.trim();
    let digits = value
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let factor = match unit.trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}
