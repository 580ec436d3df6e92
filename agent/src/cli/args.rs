//! The arguments, as clap reads them. Only names and types; what they do is in the modules
//! beside this one.

use super::restore::RestoreCommand;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;
use std::time::Duration;

/// Builds and guards an active-active PostgreSQL mesh.
#[derive(Debug, Parser)]
#[command(
    name = "pgaa-agent",
    version,
    after_help = "Exit codes: 0 ok, 1 degraded, 2 critical, 3 agent unreachable, 4 time-out, \
                  64 usage, 77 permission, 78 configuration."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments that every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// Ask the agent at this Unix socket
    #[arg(long, global = true, env = "PGAA_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Read this configuration file and no other
    #[arg(long, global = true, env = "PGAA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read configuration from this directory in the place of /etc/pgaa
    #[arg(
        long,
        global = true,
        env = "PGAA_CONFIG_DIR",
        value_name = "DIR",
        conflicts_with = "config"
    )]
    pub config_dir: Option<PathBuf>,
    /// Log more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Text for people, or JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs; documents carry schema_version
    Json,
}

/// Where the output format is asked for.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArg {
    /// The output's format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent; systemd does it
    Run,
    /// Show how the mesh is, as this node sees it
    Status {
        /// Go on, and show each change
        #[arg(short, long)]
        watch: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List the nodes
    Nodes(OutputArg),
    /// Show the matrix of edges: who follows whom, and how far behind
    Topology(OutputArg),
    /// Show how far the nodes' clocks are apart, and what their sources of time say
    Clock(OutputArg),
    /// Show what happened on this node
    Events {
        /// How far back, like 30m, 2h, 7d
        #[arg(long, value_parser = read_duration, value_name = "TIME")]
        since: Option<Duration>,
        /// Go on, and show each event as it happens
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Wait until something is so
    Wait {
        /// What has to be so
        #[arg(long = "for", value_enum, value_name = "WHAT")]
        goal: Goal,
        /// How long to wait, like 500ms, 60s, 5m
        #[arg(long, value_parser = read_duration, default_value = "60s", value_name = "TIME")]
        timeout: Duration,
    },
    /// Compare tables on all nodes, row by row, while they serve writes, and what they are made of
    ///
    /// Ends with 0 when all is equal, 1 when structures differ (indexes, columns, privileges and so
    /// on) or not all could be compared, 2 when rows differ.
    Verify {
        /// schema.table, or the table alone where it is the only one of that name; all when none
        /// is named
        tables: Vec<String>,
        /// Without rests between ranges: faster, and the applications notice
        #[arg(long)]
        eager: bool,
        /// Mend rows that differ: the version that last-update-wins would have kept is everybody's
        #[arg(long)]
        repair: bool,
        /// With --repair: tell which version would stay and why, and change nothing
        #[arg(long, requires = "repair")]
        dry_run: bool,
        /// Go on with the comparison that was broken off last on this node, as it was wished
        #[arg(long, conflicts_with_all = ["tables", "eager", "repair"])]
        resume: bool,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Show the backups, look into the past of the database, bring back what was lost
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Show the conflicts that this node has met, and where there are the most
    Conflicts(ConflictsArgs),
    /// Check and show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Find and correct sequences that would give the same key on two nodes
    #[command(subcommand)]
    Sequences(SequencesCommand),
    /// Drain, and leave the mesh for good
    Leave {
        /// Without waiting for nodes that can't be reached
        #[arg(long)]
        force: bool,
    },
    /// Remove a dead node from the mesh for ever
    Forget {
        /// Its name or UUID
        node: String,
        /// Although most of the other nodes can't be reached
        #[arg(long)]
        force: bool,
    },
    /// The way back of a node that is set apart: exported, emptied, joined anew
    ///
    /// For a node that `status` calls quarantined because its database was rolled back (a snapshot, a
    /// restored disk). Everything it holds is written to a file that `status` names; then its slots and
    /// subscriptions are dropped on all nodes, and it joins like a new machine, with all rows of the
    /// mesh. Rows that only this node had are in the file alone (pg_restore). A node that is not set
    /// apart refuses.
    Rejoin {
        /// The name of this node: it is given up only when it is named
        node: String,
    },
    /// Go past a transaction of another node that can't be applied here, after it was exported
    SkipTransaction {
        /// Whose transaction: a name or UUID
        node: String,
        /// The LSN of its commit, or its number, as status shows them
        transaction: String,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Restart PostgreSQL on this node
    Restart,
    /// Found the cluster without the nodes that are missing
    Found {
        /// Has to be said: this node alone becomes the cluster, and the others join it
        #[arg(long, required = true)]
        only_me: bool,
        /// To whom this node has promised itself (its own UUID when to nobody), as status shows
        #[arg(long, value_name = "UUID")]
        promise_holder: Option<String>,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// Show or take back the promise made to a founder
    #[command(subcommand)]
    Promise(PromiseCommand),
    /// Make PostgreSQL ready before its first start (for systemd)
    Provision {
        /// Only keep the settings in line with the server's version, where INSTANCE (15-main) is
        /// the mesh's cluster and has been made ready before
        #[arg(long, value_name = "INSTANCE")]
        before_start: Option<String>,
    },
    /// Print user-data for the machines of a new mesh
    #[command(subcommand)]
    CloudInit(CloudInitCommand),
    /// Make an image of this machine fit to be copied, or say what is in the way
    #[command(subcommand)]
    Image(ImageCommand),
    /// Start a whole mesh on this machine, to look at and to play with
    Demo(DemoArgs),
    /// Print the completion script for a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page, or write all of them into a directory
    Man {
        /// Where to
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `conflicts`
#[derive(Debug, Args)]
pub struct ConflictsArgs {
    /// How far back, like 30m, 2h, 7d
    #[arg(long, value_parser = read_duration, default_value = "1d", value_name = "TIME")]
    pub since: Duration,
    /// Only of this table: schema.table, or the table alone
    #[arg(long)]
    pub table: Option<String>,
    /// Only between these two nodes
    #[arg(long, value_delimiter = ',', value_name = "NODE,NODE")]
    pub pair: Vec<String>,
    /// So many single conflicts, at most 1000 [default: 20]
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u32>,
    #[command(flatten)]
    pub output: OutputArg,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// This node takes writes
    Ready,
    /// This node belongs to a cluster
    Member,
    /// Every node is ready and every edge replicates
    Converged,
    /// This node has left
    Left,
}

/// `backup`
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Those that are kept.
    #[command(flatten)]
    Keep(KeepCommand),
    /// The ways back.
    #[command(flatten)]
    Restore(RestoreCommand),
}

/// `backup`, of those that are kept.
#[derive(Debug, Subcommand)]
pub enum KeepCommand {
    /// Show which node owns the backups, or have another own them
    Owner {
        /// Its name or UUID. It takes a full backup at once
        #[arg(long, value_name = "NODE")]
        move_to: Option<String>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List what the repository holds, of all nodes, and what can be restored
    List(OutputArg),
    /// Show how it goes: owner, running backup, last and next one, WAL that waits
    Status(OutputArg),
    /// Take a backup now; on the node that owns the backups
    Run {
        /// Which kind
        #[arg(value_enum, default_value_t = BackupKindArg::Full)]
        kind: BackupKindArg,
    },
}

/// The kinds of backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackupKindArg {
    /// On nothing
    Full,
    /// On the last full one
    Differential,
    /// On the last one, whichever that is
    Incremental,
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say everything that is wrong with the configuration
    Check,
    /// Print what counts
    Show {
        /// With the file and line, or the variable, each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print a documented sample file
    Sample,
}

/// `token`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a join token, and print it once
    Create {
        /// How long it is good for, like 24h, 30d
        #[arg(long, value_parser = read_duration, value_name = "TIME")]
        ttl: Option<Duration>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// List the tokens, without their secrets
    List(OutputArg),
    /// End a token before its time; members stay
    Revoke {
        /// The part between the dots of pgaa1.ID.SECRET
        id: String,
    },
}

/// `sequences`
#[derive(Debug, Subcommand)]
pub enum SequencesCommand {
    /// List the sequences that feed keys
    List(OutputArg),
    /// Give them a step and an offset of this node's own
    Fix {
        /// Only these; all that need it when none is named
        sequences: Vec<String>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// `cloud-init`
#[derive(Debug, Clone, Subcommand)]
pub enum CloudInitCommand {
    /// Print user-data with a fresh join token: one and the same for every machine
    Render(RenderArgs),
}

/// `cloud-init render`
#[derive(Debug, Clone, Args)]
pub struct RenderArgs {
    /// The cluster's name: 1 to 32 characters of a-z, 0-9 and '-'
    #[arg(long)]
    pub name: String,
    /// How many machines found the cluster together; later ones join it
    #[arg(long)]
    pub expect: u16,
    /// Where the machines find one another: addresses, DNS names, exec:/path/to/program
    #[arg(long, value_delimiter = ',', required = true, value_name = "SEED,...")]
    pub seeds: Vec<String>,
    /// The database that is replicated; the cluster's name when not given
    #[arg(long)]
    pub database: Option<String>,
    /// Have the machines install PostgreSQL and this package: http:// or https://
    #[arg(long, value_name = "URL", requires = "package_sha256")]
    pub package_url: Option<String>,
    /// The package's SHA-256
    #[arg(long, value_name = "HEX", requires = "package_url")]
    pub package_sha256: Option<String>,
    /// Write the token to this file, and leave it out: for the systemd credential pgaa.token
    #[arg(long, value_name = "FILE", conflicts_with = "package_url")]
    pub token_to: Option<PathBuf>,
}

/// `image`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ImageCommand {
    /// Say what every copy would have in common and must not
    Check,
    /// Remove what belongs to one machine; databases are left alone, and named
    Seal,
}

/// `promise`
#[derive(Debug, Subcommand)]
pub enum PromiseCommand {
    /// Show to whom this node has promised itself
    Show(OutputArg),
    /// Take the promise back from a candidate that is destroyed for ever
    Release {
        /// The candidate's UUID
        candidate: String,
    },
}

/// `demo`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DemoArgs {
    #[command(subcommand)]
    pub command: Option<DemoCommand>,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
}

/// What to do with a demo that stays.
#[derive(Debug, Subcommand)]
pub enum DemoCommand {
    /// Start a mesh and leave it running
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
        nodes: u16,
        /// Where everything is kept
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Start one more node
    Add {
        /// Where the demo is kept
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Stop and remove everything
    Down {
        /// Where the demo is kept
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Reads "500ms", "60s", "5m", "2h", "7d"; a bare number is seconds.
pub fn read_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let factor_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{unit:?} is no unit of time; use ms, s, m, h or d")),
    };
    let count: u64 = digits
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is no time; write 500ms, 60s, 5m, 2h or 7d"))?;
    let ms = count
        .checked_mul(factor_ms)
        .ok_or_else(|| format!("{text:?} is too long"))?;
    Ok(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_contradiction() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_read_or_refused() {
        let read = |text| read_duration(text).map(|duration| duration.as_millis());
        assert_eq!(read("500ms"), Ok(500));
        assert_eq!(read("60"), Ok(60_000));
        assert_eq!(read("5m"), Ok(300_000));
        assert_eq!(read("7d"), Ok(604_800_000));
        for bad in [
            "",
            "s",
            "1x",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(read(bad).is_err(), "{bad:?} was taken");
        }
    }
}
