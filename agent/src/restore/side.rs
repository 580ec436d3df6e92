//! A restored database, started beside the live server and apart from everything: one Unix socket
//! in a directory that nobody else can enter, no TCP, no archiving, nobody's subscriptions.
//!
//! pglogical isn't preloaded, so that none of its workers exists; its tables can be read all the
//! same. Must not know what the database is restored for.

use super::scratch::{Purpose, Scratch, Stage};
use crate::clock::Clocks;
use crate::config::Settings;
use crate::durable;
use crate::failpoint;
use crate::postgres::owner::run;
use crate::postgres::{Place, Postgres, Recovery, recovery};
use anyhow::{Context, bail};
use jiff::Timestamp;
use pgaa_core::restore::Target;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The port is only part of the socket's name, and the directory has no other socket.
const PORT: u16 = 5432;
/// A start returns at once, a stop waits for a checkpoint.
const CONTROL_MAX: Duration = Duration::from_secs(180);
/// How often is looked whether it has recovered.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After so many looks it is asked whether it runs at all: it has ended, or never began.
const GONE_LOOKS: u32 = 50;
/// How much of its log is shown when it fails, lines.
const LOG_LINES: usize = 8;
/// What PostgreSQL says when the WAL isn't enough (xlogrecovery.c).
const TOO_SHORT: &str = "recovery ended before configured recovery target was reached";
/// What it says before that.
const LAST_COMMIT: &str = "last completed transaction was at log time ";

/// A restored database.
#[derive(Debug)]
pub struct Side {
    scratch: Scratch,
    settings: Settings,
    copy_ms: u64,
    replay_ms: u64,
}

/// May it lose what it writes when the machine fails? It only may when it is removed anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// No.
    Yes,
    /// Yes: recovery is faster.
    No,
}

impl Side {
    /// The one in `scratch`; `settings` are those of the live server beside it.
    #[must_use]
    pub fn new(scratch: Scratch, settings: &Settings) -> Side {
        Side {
            scratch,
            settings: settings.clone(),
            copy_ms: 0,
            replay_ms: 0,
        }
    }

    /// Its directory.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Where it can be reached.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            socket_dir: self.scratch.path("sock"),
            port: PORT,
            role: self.settings.postgres.superuser.clone(),
        }
    }

    /// A handle on it.
    #[must_use]
    pub fn postgres(&self) -> Postgres {
        let mut settings = self.settings.clone();
        settings.postgres.socket_dir = self.scratch.path("sock");
        settings.postgres.port = PORT;
        Postgres::new(&settings)
    }

    /// How long the copying took, and the replay: milliseconds.
    #[must_use]
    pub fn took(&self) -> (u64, u64) {
        (self.copy_ms, self.replay_ms)
    }

    /// Notes that the backup has been copied, and how long it took.
    pub fn restored(&mut self, took: Duration) -> anyhow::Result<()> {
        self.copy_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // Once only: the server removes it when it has recovered, and must not do that twice.
        let signal = self.scratch.path("data").join("recovery.signal");
        durable::write(&signal, b"", 0o600)?;
        Ok(self.scratch.reached(Stage::Recovering, None)?)
    }

    /// Writes its configuration. What the backup brings along counts no more: not the settings
    /// made by ALTER SYSTEM, nor who may log in.
    pub fn configure(&self, restore_command: &str, lasting: Lasting) -> anyhow::Result<()> {
        let data = self.scratch.path("data");
        durable::write(&data.join("postgresql.auto.conf"), b"", 0o600)?;
        let prepared = self.prepared_transactions()?;
        let text = self.conf(restore_command, lasting, prepared);
        durable::write(
            &self.scratch.path("postgresql.conf"),
            text.as_bytes(),
            0o600,
        )?;
        // Whoever can enter the directory is PostgreSQL's own account, or root.
        let hba = b"local all all trust\n";
        durable::write(&self.scratch.path("pg_hba.conf"), hba, 0o600)?;
        Ok(durable::write(
            &self.scratch.path("pg_ident.conf"),
            b"",
            0o600,
        )?)
    }

    fn conf(&self, restore_command: &str, lasting: Lasting, prepared: u32) -> String {
        let at = |part: &str| self.scratch.path(part).display().to_string();
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let anew = self.scratch.manifest().purpose == Purpose::Anew;
        // Without it the server forgets all commit times, and with them the numbers of the origins
        // that the old mesh had: none of the new one's is taken for it.
        let (commit_times, read_only) = if anew { ("off", "off") } else { ("on", "on") };
        let fsync = if lasting == Lasting::Yes { "on" } else { "off" };
        let mut lines = vec![
            "# A restored database, apart from the mesh. Written by pgaa-agent.".to_owned(),
            format!("data_directory = '{}'", at("data")),
            format!("hba_file = '{}'", at("pg_hba.conf")),
            format!("ident_file = '{}'", at("pg_ident.conf")),
            "listen_addresses = ''".to_owned(),
            format!("unix_socket_directories = '{}'", at("sock")),
            "unix_socket_permissions = 0700".to_owned(),
            format!("port = {PORT}"),
            "max_connections = 20".to_owned(),
            "huge_pages = off".to_owned(),
            "ssl = off".to_owned(),
            "# Nothing in it may reach out, or act by itself.".to_owned(),
            "shared_preload_libraries = ''".to_owned(),
            "max_logical_replication_workers = 0".to_owned(),
            "archive_mode = off".to_owned(),
            "autovacuum = off".to_owned(),
            format!("default_transaction_read_only = {read_only}"),
            "# What the WAL and the origins in it need.".to_owned(),
            "wal_level = replica".to_owned(),
            format!("track_commit_timestamp = {commit_times}"),
            "max_replication_slots = 1000".to_owned(),
            format!("max_prepared_transactions = {prepared}"),
            format!("fsync = {fsync}"),
            "hot_standby = off".to_owned(),
            format!("restore_command = {}", quoted(restore_command)),
            "recovery_target_action = promote".to_owned(),
        ];
        lines.extend(recovery_lines(self.scratch.manifest().target));
        lines.join("\n") + "\n"
    }

    /// How many prepared transactions the backed-up server may hold.
    fn prepared_transactions(&self) -> anyhow::Result<u32> {
        let mut command = self.program("pg_controldata");
        command.env("LC_ALL", "C").arg(self.scratch.path("data"));
        let printed = run(&mut command, CONTROL_MAX)?;
        let line = printed
            .lines()
            .find_map(|line| line.strip_prefix("max_prepared_xacts setting:"));
        let value = line.and_then(|value| value.trim().parse().ok());
        value.context("pg_controldata doesn't tell max_prepared_xacts; is it PostgreSQL 15's?")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.settings.postgres.bin_dir.join(name));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.current_dir("/");
        command
    }

    fn control(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let mut command = self.program("pg_ctl");
        command.args(arguments).arg("--pgdata");
        command.arg(self.scratch.directory());
        run(&mut command, CONTROL_MAX).map(drop)?;
        Ok(())
    }

    /// Starts it if it doesn't run, and waits until it is what was asked for.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let clocks = Clocks::start();
        let log = self.scratch.path("log");
        // A pid file alone says nothing: a machine that failed has left it.
        if !self.runs() {
            let log = log.display().to_string();
            self.control(&["start", "--no-wait", "--silent", "--log", &log])?;
        }
        let mut looks: u32 = 0;
        let recovered_to = loop {
            match recovery(&self.place()).await {
                Recovery::Done(last) => break last,
                Recovery::NotYet(_) => looks = looks.wrapping_add(1),
            }
            if looks.is_multiple_of(GONE_LOOKS) && !self.runs() {
                bail!("{}", self.why_it_ended(&log));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        self.replay_ms = clocks.mono().0;
        failpoint::reached("restore_replayed").await;
        // Known only until the first restart.
        let known = self.scratch.manifest().recovered_to.clone();
        self.scratch.reached(Stage::Ready, known.or(recovered_to))?;
        Ok(())
    }

    fn pid_file(&self) -> PathBuf {
        self.scratch.path("data").join("postmaster.pid")
    }

    fn why_it_ended(&self, log: &Path) -> String {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.contains(TOO_SHORT) {
            let last = text
                .lines()
                .rev()
                .find_map(|line| line.split_once(LAST_COMMIT));
            let last = last.map_or("before that", |(_, time)| time.trim());
            return format!(
                "the WAL in the repository doesn't reach that far: its last commit is of {last}. \
                 Name an earlier time, or wait until more of it is archived; how far it is: \
                 pgaa-agent status"
            );
        }
        let lines: Vec<&str> = text.lines().collect();
        let end = lines
            .get(lines.len().saturating_sub(LOG_LINES)..)
            .unwrap_or_default();
        format!(
            "the restored server has ended; its log, {}, ends with:\n{}",
            log.display(),
            end.join("\n")
        )
    }

    /// Stops its server, if it runs.
    pub fn stop(&self) -> anyhow::Result<()> {
        if !self.pid_file().exists() {
            return Ok(());
        }
        // A pid file that a crash has left doesn't stop anything: pg_ctl says that none runs.
        match self.control(&["stop", "--wait", "--mode", "fast", "--silent"]) {
            Err(error) if self.runs() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn runs(&self) -> bool {
        self.control(&["status"]).is_ok()
    }

    /// Stops its server and removes everything that was made for it. Returns what is left.
    pub fn discard(self) -> anyhow::Result<Option<String>> {
        self.stop()?;
        Ok(self.scratch.remove()?)
    }
}

/// The settings by which PostgreSQL knows where to stop.
fn recovery_lines(target: Target) -> Vec<String> {
    match target {
        Target::Latest => Vec::new(),
        Target::Time(us) => vec![format!("recovery_target_time = '{}'", server_time(us))],
        Target::Lsn(lsn) => vec![
            format!("recovery_target_lsn = '{lsn}'"),
            "recovery_target_inclusive = off".to_owned(),
        ],
    }
}

/// A time as PostgreSQL reads it, whatever its time zone is.
fn server_time(us: i64) -> String {
    let time = Timestamp::from_microsecond(us).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgaa_core::ids::Lsn;

    #[test]
    fn targets_are_written_as_postgresql_reads_them() {
        let time = recovery_lines(Target::Time(1_795_291_824_016_725));
        assert_eq!(
            time,
            ["recovery_target_time = '2026-11-21 20:10:24.016725+00'"]
        );
        assert_eq!(recovery_lines(Target::Latest), Vec::<String>::new());
        let lsn = recovery_lines(Target::Lsn(Lsn(0x1_0000_00FF)));
        assert_eq!(lsn[0], "recovery_target_lsn = '1/FF'");
    }
}
