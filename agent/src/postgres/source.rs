//! The server that a joiner copies from. Rows come by PostgreSQL's own protocol, through the agent;
//! structure through PostgreSQL's client programs: pg_dump knows every kind of object. Both are
//! reached by the same connection string, with the files that the server itself uses for TLS.
//!
//! Must not know the join protocol: `daemon::join` does.

use super::conninfo;
use super::session::APPLICATION_NAME;
use super::wire::{Wire, WireError};
use crate::config::Settings;
use bytes::Bytes;
use pgaa_core::ids::Lsn;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Indexes and constraints that are made side by side at most.
const RESTORE_JOBS_MAX: usize = 4;

/// How much of a program's complaints is kept, bytes.
const COMPLAINT_MAX: u64 = 8 * 1024;

/// "0/1A2B3C8|744|COMMIT 744" is shorter, bytes.
const LAST_LINE_MAX: u64 = 1024;

/// Whatever roles and databases are set to: a copy takes as long as it takes, and text looks the
/// same on both servers. Nothing that reads catalogues is worth being compiled: it takes longer.
const OPTIONS: &str = "-c jit=off -c statement_timeout=0 -c lock_timeout=30s \
                       -c idle_in_transaction_session_timeout=0 -c datestyle=ISO \
                       -c intervalstyle=postgres -c extra_float_digits=3 -c bytea_output=hex \
                       -c client_encoding=UTF8 -c default_transaction_read_only=off";

/// How many objects are restored side by side, and the option that gives each index build its
/// memory: a sixteenth of the machine's for all of them, since the server has its own already.
fn index_builds() -> (usize, String) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = cores.min(RESTORE_JOBS_MAX);
    let total_mb = nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total() >> 20);
    let share_mb = (total_mb / 16 / jobs as u64).clamp(64, 1024);
    (jobs, format!("-c maintenance_work_mem={share_mb}MB"))
}

/// The server did not do what it was asked, or a client program failed.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The server.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It could not be run.
    #[error("{} can't be run; is the PostgreSQL client installed there?", program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed: {complaint}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it printed.
        complaint: String,
    },
    /// One of them answered something that doesn't fit.
    #[error("{who} answered {found:?}, which is not what was asked for")]
    Unexpected {
        /// Which.
        who: &'static str,
        /// What.
        found: String,
    },
}

/// One replicated table of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// "schema.table"
    pub name: String,
    /// Its size on the source, bytes.
    pub bytes: u64,
    /// The statement that copies it out.
    pub copy_out: String,
    /// The statement that empties it here, where it is empty: what is copied in by a transaction
    /// that has emptied the table needn't be looked at by a vacuum.
    pub empty: String,
    /// The statement that copies it in.
    pub copy_in: String,
}

/// A server to copy from.
#[derive(Debug, Clone)]
pub struct Source {
    bin_dir: PathBuf,
    database: String,
    conninfo: String,
    local: String,
}

/// A snapshot of the source that lasts as long as this value.
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// The position of the slot that was made with it.
    pub position: Lsn,
    _session: Wire,
}

/// A session that reads the source as it was in a snapshot.
pub struct Reader {
    wire: Wire,
}

impl Source {
    /// The server at `conninfo`, and the local one at `local`.
    #[must_use]
    pub fn new(settings: &Settings, conninfo: String, local: String) -> Source {
        let bin_dir = settings.postgres.bin_dir.clone();
        let database = settings.policy.database.clone();
        Source {
            bin_dir,
            database,
            conninfo,
            local,
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin_dir.join(program));
        command
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // What the agent was started with must not change what these programs do.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        command.env("PGOPTIONS", OPTIONS);
        command
    }

    fn psql(&self, conninfo: &str) -> Command {
        let mut command = self.command("psql");
        command.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            conninfo,
        ]);
        command
    }

    /// Makes the logical slot `slot` on the source, with a snapshot of exactly its position.
    /// `slot` is a name that pglogical made: letters, digits and underscores.
    pub async fn export(&self, slot: &str) -> Result<Snapshot, SourceError> {
        self.exported(&format!("\"{slot}\"")).await
    }

    /// The same with a slot that goes with the snapshot.
    pub async fn export_passing(&self, slot: &str) -> Result<Snapshot, SourceError> {
        self.exported(&format!("\"{slot}\" TEMPORARY")).await
    }

    async fn exported(&self, slot: &str) -> Result<Snapshot, SourceError> {
        let mut session = self.connect(&[("replication", "database")]).await?;
        let statement =
            format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pglogical_output EXPORT_SNAPSHOT");
        let rows = session.query(&statement).await?;
        let fields: Vec<&str> = rows.iter().flatten().map(String::as_str).collect();
        let made = match fields.as_slice() {
            [_, position, name, _] => position.parse().ok().map(|position| (position, *name)),
            _ => None,
        };
        let (position, name) = made.ok_or_else(|| unexpected(&fields))?;
        Ok(Snapshot {
            name: name.to_owned(),
            position,
            _session: session,
        })
    }

    async fn connect(&self, more: &[(&str, &str)]) -> Result<Wire, SourceError> {
        let who = [
            ("options", OPTIONS),
            ("application_name", APPLICATION_NAME),
            ("client_encoding", "UTF8"),
        ];
        let words = conninfo::words(&self.conninfo);
        Ok(Wire::connect(&words, &[&who, more].concat()).await?)
    }

    /// Begins to read under a snapshot.
    pub async fn reader(&self, snapshot: &str) -> Result<Reader, SourceError> {
        let mut wire = self.connect(&[]).await?;
        wire.query(&begin(snapshot)).await?;
        Ok(Reader { wire })
    }

    /// Dumps the structure of the user's schemas under a snapshot.
    pub async fn dump_structure(&self, snapshot: &str, to: &Path) -> Result<(), SourceError> {
        let mut command = self.command("pg_dump");
        command
            .arg("--format=custom")
            .arg("--schema-only")
            .arg("--no-publications");
        command
            .arg("--no-subscriptions")
            .arg("--exclude-schema=pgaa");
        command
            .arg("--exclude-schema=pglogical")
            .arg(format!("--snapshot={snapshot}"));
        command
            .arg("--file")
            .arg(to)
            .arg(format!("--dbname={}", self.conninfo));
        self.finish("pg_dump", command).await.map(|_| ())
    }

    /// Dumps structure and rows of the user's schemas, as they are now.
    pub async fn dump_everything(&self, to: &Path) -> Result<(), SourceError> {
        let mut command = self.command("pg_dump");
        command
            .args(["--format=custom", "--compress=1"])
            .args(["--exclude-schema=pgaa", "--exclude-schema=pglogical"])
            .arg("--file")
            .arg(to)
            .arg(format!("--dbname={}", self.conninfo));
        self.finish("pg_dump", command).await.map(|_| ())
    }

    /// Writes what one transaction of this server has changed into a file, through a copy of `slot`,
    /// whose reader hasn't confirmed it yet. Returns where its commit ends.
    pub async fn export_transaction(
        &self,
        slot: &str,
        which: (Lsn, u32),
        to: &Path,
    ) -> Result<Lsn, SourceError> {
        self.decode_transaction(slot, which, ("export", "c.data"), to)
            .await?;
        let last = last_line(to).unwrap_or_default();
        match last.split('|').collect::<Vec<_>>().as_slice() {
            [end, _, what] if what.starts_with("COMMIT") => end.parse().ok(),
            _ => None,
        }
        .ok_or(SourceError::Unexpected {
            who: "psql",
            found: last,
        })
    }

    /// The same to be read by a program: each change is one line, and its text a JSON string.
    pub async fn read_transaction(
        &self,
        slot: &str,
        which: (Lsn, u32),
        to: &Path,
    ) -> Result<(), SourceError> {
        let json = ("read", "pg_catalog.to_json(c.data)");
        self.decode_transaction(slot, which, json, to).await
    }

    async fn decode_transaction(
        &self,
        slot: &str,
        (commit, xid): (Lsn, u32),
        (purpose, shape): (&str, &str),
        to: &Path,
    ) -> Result<(), SourceError> {
        let mut command = self.psql(&self.conninfo);
        let values = [
            ("slot", slot.to_owned()),
            ("copy", format!("pgaa_{purpose}_{xid}")),
            ("commit", commit.to_string()),
            ("xid", xid.to_string()),
            ("shape", shape.to_owned()),
        ];
        for (name, value) in values {
            command.arg("-v").arg(format!("{name}={value}"));
        }
        command.arg("-o").arg(to).args(["-f", "-"]);
        command.stdin(Stdio::piped());
        let mut child = spawn(&mut command, &self.bin_dir.join("psql"))?;
        if let Some(mut input) = child.stdin.take() {
            // A program that has ended says why below.
            let script = include_str!("sql/export_transaction.sql");
            let _ = input.write_all(script.as_bytes()).await;
        }
        let complaint = complaint(&mut child).await;
        if !child.wait().await.is_ok_and(|status| status.success()) {
            return Err(SourceError::Failed {
                program: "psql",
                complaint,
            });
        }
        Ok(())
    }

    /// Restores one section of a dumped structure here: "pre-data" or "post-data".
    pub async fn restore_structure(&self, section: &str, from: &Path) -> Result<(), SourceError> {
        let mut list = self.command("pg_restore");
        list.arg(format!("--section={section}"))
            .arg("--list")
            .arg(from);
        list.stdout(Stdio::piped());
        let listed = not_ours(&self.finish("pg_restore", list).await?);
        if lists_nothing(&listed) {
            return Ok(());
        }
        let wanted = from.with_extension(format!("{section}.list"));
        let written = std::fs::write(&wanted, listed);
        written.map_err(|source| SourceError::Run {
            program: wanted.clone(),
            source,
        })?;
        let mut command = self.command("pg_restore");
        let (jobs, memory) = index_builds();
        // A crash of this server starts the join over, so nothing waits for the disk.
        let options = format!("{OPTIONS} {memory} -c synchronous_commit=off");
        command
            .env("PGOPTIONS", options)
            .args(["--exit-on-error", "--use-list"])
            .arg(&wanted);
        // What comes before the rows is made one after the other anyhow.
        if section == "post-data" {
            command.arg(format!("--jobs={jobs}"));
        }
        command.arg(format!("--dbname={}", self.local)).arg(from);
        self.finish("pg_restore", command).await?;
        let _ = std::fs::remove_file(&wanted);
        Ok(())
    }

    /// Makes the source's roles here, with their passwords. Roles that exist stay as they are
    /// but for what the source says of them.
    pub async fn copy_roles(&self) -> Result<(), SourceError> {
        let mut dump = self.command("pg_dumpall");
        // The mesh's role is let into the mesh's database alone.
        dump.arg("--roles-only")
            .arg(format!("--database={}", self.database));
        dump.arg(format!("--dbname={}", self.conninfo));
        dump.stdout(Stdio::piped());
        let text = self.finish("pg_dumpall", dump).await?;
        let mut load = self.command("psql");
        load.args(["-X", "-q", "-d", &self.local])
            .stdin(Stdio::piped());
        let mut child = spawn(&mut load, &self.bin_dir.join("psql"))?;
        if let Some(mut input) = child.stdin.take() {
            // Roles that exist make CREATE ROLE fail; the ALTER ROLE that follows counts.
            let _ = input.write_all(&text).await;
        }
        let _ = complaint(&mut child).await;
        Ok(())
    }

    /// Brings the sequences here to the source's values.
    pub async fn copy_sequences(&self) -> Result<(), SourceError> {
        let mut source = self.connect(&[]).await?;
        let rows = source
            .query(include_str!("sql/source_sequences.sql"))
            .await?;
        let text: Vec<String> = rows.into_iter().flatten().collect();
        if text.is_empty() {
            return Ok(());
        }
        let mut command = self.psql(&self.local);
        command.arg("-c").arg(text.join(" "));
        self.finish("psql", command).await.map(|_| ())
    }

    async fn finish(
        &self,
        program: &'static str,
        mut command: Command,
    ) -> Result<Vec<u8>, SourceError> {
        let mut child = spawn(&mut command, &self.bin_dir.join(program))?;
        let mut output = Vec::new();
        let stdout = child.stdout.take();
        let read = async {
            if let Some(mut stdout) = stdout {
                let _ = stdout.read_to_end(&mut output).await;
            }
        };
        let stderr = child.stderr.take();
        let complain = async {
            let mut text = Vec::new();
            if let Some(stderr) = stderr {
                let _ = stderr.take(COMPLAINT_MAX).read_to_end(&mut text).await;
            }
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let ((), complaint) = tokio::join!(read, complain);
        let ended = child.wait().await.map_err(|source| SourceError::Run {
            program: self.bin_dir.join(program),
            source,
        })?;
        if ended.success() {
            Ok(output)
        } else {
            Err(SourceError::Failed { program, complaint })
        }
    }
}

impl Reader {
    /// The replicated tables, largest first.
    pub async fn tables(&mut self) -> Result<Vec<SourceTable>, SourceError> {
        let query = include_str!("sql/source_tables.sql");
        self.wire.query(query).await?.iter().map(table).collect()
    }

    /// Asks for a table's rows. Several may be asked for: their rows come one after the other.
    pub async fn ask(&mut self, table: &SourceTable) -> Result<(), SourceError> {
        Ok(self.wire.ask(&table.copy_out).await?)
    }

    /// Waits for the first rows of the next table that was asked for.
    pub async fn begin(&mut self) -> Result<(), SourceError> {
        Ok(self.wire.copy_begins().await?)
    }

    /// The next rows, in COPY's binary format or its text; `None` when all of them were here.
    pub async fn rows(&mut self) -> Result<Option<Bytes>, SourceError> {
        Ok(self.wire.copied().await?)
    }
}

fn table(row: &Vec<String>) -> Result<SourceTable, SourceError> {
    let [name, bytes, copy_out, empty, copy_in] = row.as_slice() else {
        return Err(unexpected(row));
    };
    Ok(SourceTable {
        name: name.clone(),
        bytes: bytes.parse().unwrap_or(0),
        copy_out: copy_out.clone(),
        empty: empty.clone(),
        copy_in: copy_in.clone(),
    })
}

fn unexpected<T: AsRef<str>>(found: &[T]) -> SourceError {
    let found: Vec<&str> = found.iter().map(AsRef::as_ref).collect();
    SourceError::Unexpected {
        who: "the source",
        found: found.join(" | "),
    }
}

/// The last line of a file; it is a short one.
fn last_line(file: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE_MAX)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text
        .trim_end()
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// The table of contents of a dump without our own event triggers, which belong to no schema and
/// are here already.
fn not_ours(listed: &[u8]) -> String {
    let text = String::from_utf8_lossy(listed);
    let ours = |line: &&str| line.contains(" EVENT TRIGGER - pgaa_");
    let mut kept = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !ours(line)) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Is a table of contents empty, but for its comments?
fn lists_nothing(listed: &str) -> bool {
    listed
        .lines()
        .all(|line| line.trim().is_empty() || line.starts_with(';'))
}

/// The name of a snapshot comes from the source; nothing but its own alphabet is let through.
pub(super) fn begin(snapshot: &str) -> String {
    let name: String = snapshot
        .chars()
        .filter(|c| c.is_ascii_hexdigit() || *c == '-')
        .collect();
    format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{name}'")
}

fn spawn(command: &mut Command, program: &Path) -> Result<Child, SourceError> {
    command.spawn().map_err(|source| SourceError::Run {
        program: program.to_owned(),
        source,
    })
}

/// What a child had to say before it ended.
async fn complaint(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(COMPLAINT_MAX).read_to_end(&mut text).await;
    }
    let _ = child.wait().await;
    String::from_utf8_lossy(&text).trim().to_owned()
}
