//! The table of configuration keys: the only place that names them.
//!
//! Unknown-key errors, `config show`, the manual page and the sample file are made from it. It
//! says what type a key has, never what a value means: `validate` does.

mod backup;

pub use backup::REPOSITORIES;

/// What type of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A string that is one of these words.
    Word(&'static [&'static str]),
    /// An absolute path.
    Path,
    /// A whole number within these bounds, both included.
    Integer {
        /// The smallest.
        min: i64,
        /// The largest.
        max: i64,
    },
    /// A list of strings.
    List,
}

impl Kind {
    /// For people: "a string", "a whole number from 1 to 65535".
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Kind::Text => "a string".to_owned(),
            Kind::Word(words) => format!("one of {}", quoted(words)),
            Kind::Path => "an absolute path".to_owned(),
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::List => "a list of strings".to_owned(),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("\"{word}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What holds when nobody sets the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It must be set.
    Required,
    /// It may stay unset; the text says what happens then.
    Unset(&'static str),
    /// This text.
    Text(&'static str),
    /// This number.
    Integer(i64),
    /// The empty list.
    EmptyList,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// "section.key"
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What holds when nobody sets it.
    pub default: Default,
    /// A value for the sample file, in TOML.
    pub example: &'static str,
    /// What it is for; one line of the sample file and the manual page a sentence.
    pub doc: &'static str,
}

impl Key {
    /// The section and the key within it.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.name.split_once('.').unwrap_or(("", self.name))
    }

    /// The environment variable that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        let (section, key) = self.parts();
        format!("PGAA_{}__{}", section.to_uppercase(), key.to_uppercase())
    }
}

const PORT: Kind = Kind::Integer {
    min: 1,
    max: 65_535,
};
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
const RESOLUTIONS: &[&str] = &["last_update_wins", "apply_remote", "keep_local", "error"];

/// Above this the full mesh of N x (N - 1) edges costs more than anything it replicates.
const NODES_MAX: i64 = 48;

const fn key(
    name: &'static str,
    kind: Kind,
    default: Default,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        example,
        doc,
    }
}

/// Every key there is, in the order of the sample file.
pub const KEYS: &[Key] = &joined::<{ GENERAL.len() + backup::KEYS.len() }>(GENERAL, backup::KEYS);

const fn joined<const COUNT: usize>(first: &[Key], second: &[Key]) -> [Key; COUNT] {
    let mut all = [first[0]; COUNT];
    let mut at = 0;
    while at < COUNT {
        all[at] = if at < first.len() {
            first[at]
        } else {
            second[at - first.len()]
        };
        at += 1;
    }
    all
}

/// Every key but those of `[backup]`.
const GENERAL: &[Key] = &[
    key(
        "cluster.name",
        Kind::Text,
        Default::Required,
        "\"shop\"",
        "The cluster's name, the same on every node: 1 to 32 characters of a-z, 0-9 and '-'.",
    ),
    key(
        "cluster.expect",
        Kind::Integer {
            min: 1,
            max: NODES_MAX,
        },
        Default::Required,
        "3",
        "How many nodes found the cluster together. Later ones join it.",
    ),
    key(
        "cluster.seeds",
        Kind::List,
        Default::EmptyList,
        "[\"10.0.0.11\", \"db.internal.example\"]",
        "Where peers are looked for: addresses, DNS names (SRV, A, AAAA), each with \":port\" \
         where it isn't the usual one, or \"exec:/path/to/program\" that prints such a list.",
    ),
    key(
        "cluster.token_file",
        Kind::Path,
        Default::Unset("the systemd credential pgaa.token, else /etc/pgaa/token"),
        "\"/etc/pgaa/token\"",
        "The file that holds the join token.",
    ),
    key(
        "cluster.max_nodes",
        Kind::Integer {
            min: 1,
            max: NODES_MAX,
        },
        Default::Integer(16),
        "16",
        "How many nodes slots, senders and workers are sized for. A change restarts PostgreSQL.",
    ),
    key(
        "cluster.founding_wait_s",
        Kind::Integer {
            min: 0,
            max: 86_400,
        },
        Default::Integer(60),
        "60",
        "How long empty founders wait for a founding member that went missing before they take \
         writes, seconds.",
    ),
    key(
        "cluster.conflict_resolution",
        Kind::Word(RESOLUTIONS),
        Default::Text("last_update_wins"),
        "\"last_update_wins\"",
        "Which row wins when two nodes changed it at the same time.",
    ),
    key(
        "node.name",
        Kind::Text,
        Default::Unset("the host's name"),
        "\"node-1\"",
        "This node's name for people: 1 to 32 characters of a-z, 0-9 and '-'.",
    ),
    key(
        "node.site",
        Kind::Text,
        Default::Text(""),
        "\"eu-west\"",
        "Where this node stands, for people.",
    ),
    key(
        "node.replaces",
        Kind::Text,
        Default::Text(""),
        "\"db2\"",
        "The name of a dead node whose place this one takes: it is forgotten when this node joins.",
    ),
    key(
        "postgres.database",
        Kind::Text,
        Default::Required,
        "\"shop\"",
        "The one database that is replicated; made when it isn't there.",
    ),
    key(
        "postgres.owner",
        Kind::Text,
        Default::Unset("the superuser"),
        "\"shop\"",
        "The role that owns the database when the agent makes it.",
    ),
    key(
        "postgres.excluded_schemas",
        Kind::List,
        Default::EmptyList,
        "[\"scratch\"]",
        "Schemas whose tables are never replicated.",
    ),
    key(
        "postgres.data_dir",
        Kind::Path,
        Default::Unset("the cluster found on this machine, else /var/lib/postgresql/15/main"),
        "\"/var/lib/postgresql/15/main\"",
        "The data directory, where PG_VERSION lies.",
    ),
    key(
        "postgres.config_dir",
        Kind::Path,
        Default::Unset("/etc/postgresql/VERSION/NAME beside it, else the data directory"),
        "\"/etc/postgresql/15/main\"",
        "Where postgresql.conf and pg_hba.conf lie.",
    ),
    key(
        "postgres.bin_dir",
        Kind::Path,
        Default::Unset("/usr/lib/postgresql/VERSION/bin"),
        "\"/usr/lib/postgresql/15/bin\"",
        "Where initdb and pg_ctl lie.",
    ),
    key(
        "postgres.socket_dir",
        Kind::Path,
        Default::Text("/var/run/postgresql"),
        "\"/var/run/postgresql\"",
        "Where PostgreSQL's Unix socket lies.",
    ),
    key(
        "postgres.port",
        PORT,
        Default::Unset("the one in the cluster's postgresql.conf, else 5432"),
        "5432",
        "PostgreSQL's port.",
    ),
    key(
        "postgres.superuser",
        Kind::Text,
        Default::Text("postgres"),
        "\"postgres\"",
        "The role that the agent uses on the Unix socket.",
    ),
    key(
        "postgres.mesh_role",
        Kind::Text,
        Default::Text("pgaa_mesh"),
        "\"pgaa_mesh\"",
        "The role that the other nodes' servers log in with. pglogical needs it to be a superuser.",
    ),
    key(
        "postgres.restart_command",
        Kind::List,
        Default::EmptyList,
        "[\"pg_ctlcluster\", \"15\", \"main\", \"restart\"]",
        "How this PostgreSQL is restarted: a program and its arguments. Empty: systemd does it.",
    ),
    key(
        "slots.budget_mb",
        Kind::Integer {
            min: 64,
            max: 1 << 40,
        },
        Default::Unset("all that is free on the disk, less slots.reserve_percent of it"),
        "50000",
        "How much WAL may be held back for one node that doesn't take it, MB. A node whose budget \
         is spent lacks changes from then on.",
    ),
    key(
        "slots.reserve_percent",
        Kind::Integer { min: 2, max: 50 },
        Default::Integer(10),
        "10",
        "The share of the disk with the WAL that slots must leave free, percent.",
    ),
    key(
        "slots.warn_percent",
        Kind::Integer { min: 1, max: 100 },
        Default::Integer(50),
        "50",
        "How much of its budget a slot may hold back before status warns, percent.",
    ),
    key(
        "slots.alarm_percent",
        Kind::Integer { min: 1, max: 100 },
        Default::Integer(80),
        "80",
        "How much of its budget a slot may hold back before status calls it critical, percent.",
    ),
    key(
        "slots.give_up_s",
        Kind::Integer { min: 0, max: 3_600 },
        Default::Integer(60),
        "60",
        "How long before its budget is spent, at the rate at which it goes, a slot beyond \
         slots.alarm_percent is given up, seconds.",
    ),
    key(
        "slots.backstop_percent",
        Kind::Integer { min: 1, max: 95 },
        Default::Integer(95),
        "95",
        "The most that max_slot_wal_keep_size may be, percent of the disk. It lies above what the \
         agent lets slots hold back, follows the disk, and counts while no agent runs.",
    ),
    key(
        "network.listen",
        Kind::Text,
        Default::Text("0.0.0.0"),
        "\"0.0.0.0\"",
        "The address that gRPC and gossip listen on; \"::\" for IPv6 (and IPv4 beside it).",
    ),
    key(
        "network.advertise",
        Kind::Text,
        Default::Unset("the address of the route to the first peer"),
        "\"10.0.0.11\"",
        "The address that other nodes are told.",
    ),
    key(
        "network.grpc_port",
        PORT,
        Default::Integer(7432),
        "7432",
        "gRPC between agents, TCP.",
    ),
    key(
        "network.gossip_port",
        PORT,
        Default::Integer(7432),
        "7432",
        "Gossip, UDP.",
    ),
    key(
        "network.http",
        Kind::Text,
        Default::Text("127.0.0.1:7433"),
        "\"127.0.0.1:7433\"",
        "Where health and metrics are served, without encryption; \"off\" for nowhere.",
    ),
    key(
        "network.profile",
        Kind::Word(&["lan", "wan"]),
        Default::Text("lan"),
        "\"lan\"",
        "How patient gossip is: within a site, or between sites.",
    ),
    key(
        "clock.max_error_ms",
        Kind::Integer {
            min: 1,
            max: 60_000,
        },
        Default::Integer(100),
        "100",
        "The largest error bound of a clock that counts as synchronized, milliseconds: offset, root \
         dispersion and half the root delay together. NTP over the internet stays below 60.",
    ),
    key(
        "clock.max_offset_ms",
        Kind::Integer {
            min: 1,
            max: 60_000,
        },
        Default::Unset("50, or the round trip between the two nodes where that is longer"),
        "50",
        "How far the clocks of two nodes may be apart, milliseconds; beyond it a node that wants \
         to join waits, and members warn. An update that knows of another node's change comes at \
         least a way through the network later.",
    ),
    key(
        "clock.mode",
        Kind::Word(&["warn", "strict"]),
        Default::Text("warn"),
        "\"warn\"",
        "What becomes of a member whose clock can't be trusted: strict withholds its readiness \
         (/readyz, wait --for=ready), so that load balancers avoid it. It goes on replicating.",
    ),
    key(
        "clock.chronyc",
        Kind::Path,
        Default::Text("/usr/bin/chronyc"),
        "\"/usr/bin/chronyc\"",
        "The program that is asked how good the clock is.",
    ),
    key(
        "rows.compare_every_h",
        Kind::Integer { min: 0, max: 8_760 },
        Default::Integer(168),
        "168",
        "How often all tables are compared on all nodes as a whole, in the background and at half \
         speed, hours; 0: never. Rows that conflicts and deletes name are compared at once in any \
         case. One node does it: the ready one with the lowest UUID.",
    ),
    key(
        "paths.state_dir",
        Kind::Path,
        Default::Text("/var/lib/pgaa"),
        "\"/var/lib/pgaa\"",
        "Identity, certificates, roster, promises. Part of every backup of this machine, never \
         of an image.",
    ),
    key(
        "paths.run_dir",
        Kind::Path,
        Default::Text("/run/pgaa"),
        "\"/run/pgaa\"",
        "The two Unix sockets.",
    ),
    key(
        "log.level",
        Kind::Word(LEVELS),
        Default::Text("info"),
        "\"info\"",
        "What is logged.",
    ),
];

/// The key of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The sections, in the order of the table.
#[must_use]
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = KEYS.iter().map(|key| key.parts().0).collect();
    sections.dedup();
    sections
}

/// The known key nearest to an unknown one, when it is near enough to be meant. The same key of
/// another section is meant as well ("node.seeds").
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    let moved = KEYS.iter().find(|key| key.parts().1 == leaf);
    moved
        .map(|key| key.name)
        .or_else(|| similar(name, KEYS.iter().map(|key| key.name)))
}

/// The candidate most similar to `word`, when it is similar enough to be meant.
#[must_use]
pub fn similar(word: &str, among: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // Below 0.75 people stop to recognise their own slip in the suggestion.
    let scored = among.map(|candidate| {
        (
            strsim::normalized_damerau_levenshtein(word, candidate),
            candidate,
        )
    });
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.75).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        assert_eq!(nearest("cluster.expct"), Some("cluster.expect"));
        assert_eq!(nearest("node.seeds"), Some("cluster.seeds"));
        assert_eq!(nearest("network.grpc-port"), Some("network.grpc_port"));
        assert_eq!(nearest("zebra.stripes"), None);
    }

    #[test]
    fn keys_are_unique_and_sections_are_together() {
        let mut names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KEYS.len());
        let mut once = sections();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), sections().len());
    }
}
