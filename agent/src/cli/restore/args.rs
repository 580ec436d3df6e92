//! The arguments of the commands that go back in time.

use super::super::args::OutputArg;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The subcommands of `backup` that restore.
#[derive(Debug, Subcommand)]
pub enum RestoreCommand {
    /// Restore a copy of the database beside the live one, to look into: as it was at some time
    Restore {
        /// Where to; it must not be there yet, or be empty
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        #[command(flatten)]
        past: PastArgs,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Stop a copy that was restored, and remove it
    Discard {
        /// Where it is
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Prove this node's backups: restore one, and compare every row with the live ones
    Verify {
        /// Has to be said: it copies a whole backup
        #[arg(long, required = true)]
        restore: bool,
        /// Restore below this directory, and remove it again; the state directory when not given
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        #[command(flatten)]
        output: OutputArg,
    },
    /// Bring the whole mesh back: this node founds a new one, with its rows as they were at some time
    Found {
        #[command(flatten)]
        past: PastArgs,
        /// Do it; without, only the steps are shown
        #[arg(long)]
        yes: bool,
    },
    /// Leave the old mesh behind, and join the one that another node founds anew: empty, with all
    /// that was here set aside
    JoinAnew {
        /// Do it; without, only the steps are shown
        #[arg(long)]
        yes: bool,
    },
    /// Show which rows were lost or changed since some time, and write them back
    Diff(DiffArgs),
}

/// Which past.
#[derive(Debug, Clone, Args)]
pub struct PastArgs {
    /// When: "2026-11-21 20:10:00" (this machine's time zone), "2026-11-21T20:10:00Z", "20m ago";
    /// as late as can be when not given
    #[arg(long, value_name = "TIME")]
    pub target_time: Option<String>,
    /// Of whose backups, as pgaa-agent backup info names them; whoever's fit best when not given
    #[arg(long, value_name = "STANZA")]
    pub stanza: Option<String>,
}

/// `backup diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// schema.table, or the table alone where it is the only one of that name; all when none is
    /// named
    pub tables: Vec<String>,
    #[command(flatten)]
    pub past: PastArgs,
    /// Compare with this copy, made by backup restore --to DIR, and restore nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["target_time", "stanza", "scratch"])]
    pub from: Option<PathBuf>,
    /// Restore below this directory, and remove it again; the state directory when not given
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// How many rows of each table are shown with their values
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub rows: usize,
    /// Insert the rows that are gone again; asks before it does
    #[arg(long)]
    pub write_back: bool,
    /// With --write-back: set rows that were changed to what they were, too
    #[arg(long, requires = "write_back")]
    pub changed: bool,
    /// Don't ask
    #[arg(long, requires = "write_back")]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArg,
}
