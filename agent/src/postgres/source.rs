//! The server that a joiner copies from, through PostgreSQL's own client programs: they speak
//! TLS with the files the server itself uses, and pg_dump knows every kind of object.
//!
//! Must not know the join protocol: `daemon::join` does.

use crate::config::Settings;
use pgaa_core::ids::Lsn;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Indexes and constraints that are made side by side at most.
const RESTORE_JOBS_MAX: usize = 4;

/// How much of a program's complaints is kept, bytes.
const COMPLAINT_MAX: u64 = 8 * 1024;

/// "0/1A2B3C8|744|COMMIT 744" is shorter, bytes.
const LAST_LINE_MAX: u64 = 1024;

/// Whatever roles and databases are set to: a copy takes as long as it takes, and text looks the
/// same on both servers.
const OPTIONS: &str = "-c statement_timeout=0 -c lock_timeout=30s \
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

/// A client program failed.
#[derive(Debug, Error)]
pub enum SourceError {
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
    /// It printed something that doesn't fit.
    #[error("{program} printed {found:?}, which is not what was asked for")]
    Unexpected {
        /// Which.
        program: &'static str,
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

/// A snapshot of the source that lasts as long as this value: its session is a child process.
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// The position of the slot that was made with it.
    pub position: Lsn,
    _session: Child,
    _input: ChildStdin,
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
        let unexpected = |found: String| SourceError::Unexpected {
            program: "psql",
            found,
        };
        let mut command = self.psql(&format!("{} replication='database'", self.conninfo));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut session = spawn(&mut command, &self.bin_dir.join("psql"))?;
        let (Some(mut input), Some(output)) = (session.stdin.take(), session.stdout.take()) else {
            return Err(unexpected(String::new()));
        };
        let statement =
            format!("CREATE_REPLICATION_SLOT {slot} LOGICAL pglogical_output EXPORT_SNAPSHOT;\n");
        let sent = input.write_all(statement.as_bytes()).await;
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line).await;
        if sent.is_err() || read.is_err() || line.is_empty() {
            let complaint = complaint(&mut session).await;
            return Err(SourceError::Failed {
                program: "psql",
                complaint,
            });
        }
        let fields: Vec<&str> = line.trim().split('|').collect();
        let [_, position, name, _] = fields.as_slice() else {
            return Err(unexpected(line));
        };
        let position = position.parse().map_err(|_| unexpected(line.clone()))?;
        Ok(Snapshot {
            name: (*name).to_owned(),
            position,
            _session: session,
            _input: input,
        })
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
            program: "psql",
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

    /// Runs a query on the source, under a snapshot where one is given, and returns its rows.
    async fn rows(
        &self,
        snapshot: Option<&str>,
        query: &str,
    ) -> Result<Vec<Vec<String>>, SourceError> {
        let mut command = self.psql(&self.conninfo);
        command
            .stdout(Stdio::piped())
            .args(["-F", "\x1f", "-R", "\x1e"]);
        if let Some(snapshot) = snapshot {
            command.arg("-c").arg(begin(snapshot));
        }
        command.arg("-c").arg(query);
        let output = self.finish("psql", command).await?;
        let text = String::from_utf8_lossy(&output);
        let rows = text
            .trim_end_matches('\n')
            .split('\x1e')
            .filter(|row| !row.is_empty());
        Ok(rows
            .map(|row| row.split('\x1f').map(str::to_owned).collect())
            .collect())
    }

    /// The replicated tables, largest first.
    pub async fn tables(&self, snapshot: &str) -> Result<Vec<SourceTable>, SourceError> {
        let rows = self
            .rows(Some(snapshot), include_str!("sql/source_tables.sql"))
            .await?;
        let mut tables = Vec::new();
        for row in rows {
            let [name, bytes, copy_out, copy_in] = row.as_slice() else {
                return Err(SourceError::Unexpected {
                    program: "psql",
                    found: row.join(" | "),
                });
            };
            tables.push(SourceTable {
                name: name.clone(),
                bytes: bytes.parse().unwrap_or(0),
                copy_out: copy_out.clone(),
                copy_in: copy_in.clone(),
            });
        }
        Ok(tables)
    }

    /// The names of the replicated tables now.
    pub async fn replicated(&self) -> Result<Vec<String>, SourceError> {
        let rows = self
            .rows(None, include_str!("sql/source_tables.sql"))
            .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.into_iter().next())
            .collect())
    }

    /// Statements that bring the sequences here to the source's values.
    pub async fn copy_sequences(&self) -> Result<(), SourceError> {
        let rows = self
            .rows(None, include_str!("sql/source_sequences.sql"))
            .await?;
        let text: Vec<String> = rows.into_iter().flatten().collect();
        if text.is_empty() {
            return Ok(());
        }
        let mut command = self.psql(&self.local);
        command.arg("-c").arg(text.join(" "));
        self.finish("psql", command).await.map(|_| ())
    }

    /// Starts to copy one table out; what the child prints is the table in COPY's binary format.
    pub fn copy_out(&self, snapshot: &str, table: &SourceTable) -> Result<CopyOut, SourceError> {
        let mut command = self.psql(&self.conninfo);
        command.stdout(Stdio::piped());
        command
            .arg("-c")
            .arg(begin(snapshot))
            .arg("-c")
            .arg(&table.copy_out);
        let mut child = spawn(&mut command, &self.bin_dir.join("psql"))?;
        match child.stdout.take() {
            Some(rows) => Ok(CopyOut { child, rows }),
            None => Err(SourceError::Unexpected {
                program: "psql",
                found: String::new(),
            }),
        }
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

/// A table on its way.
pub struct CopyOut {
    child: Child,
    /// The rows.
    pub rows: ChildStdout,
}

impl CopyOut {
    /// Did all of it arrive?
    pub async fn finish(mut self) -> Result<(), SourceError> {
        drop(self.rows);
        match self.child.wait().await {
            Ok(status) if status.success() => Ok(()),
            Ok(_) | Err(_) => {
                let complaint = complaint(&mut self.child).await;
                Err(SourceError::Failed {
                    program: "psql",
                    complaint,
                })
            }
        }
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
