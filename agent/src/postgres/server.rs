//! Starts, stops and makes the local PostgreSQL server, through the programs it came with.
//!
//! Blocking: call it from a thread that may wait. Knows no SQL and no settings.

use super::layout::Kind;
use super::owner::{ChildError, Owner, OwnerError, run, tail};
use crate::config::{PostgresSettings, Settings};
use crate::durable::{self, DurableError};
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use thiserror::Error;

/// initdb syncs about 40 MB; slow disks take their time.
const CREATE_MAX: Duration = Duration::from_secs(300);
/// Questions that are answered at once.
const ASK_MAX: Duration = Duration::from_secs(30);
/// The first number PostgreSQL gives to an object of a user (`FirstNormalObjectId` in
/// access/transam.h); initdb stays below it.
const FIRST_NORMAL_OID: u32 = 16_384;
/// A restart waits for a checkpoint.
const RESTART_MAX: Duration = Duration::from_secs(180);
/// There when systemd runs the system (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// What `pgaa-restart.path` waits for, in the run directory.
const RESTART_REQUEST: &str = "restart-postgresql";
/// How much longer than pg_ctl itself we wait for pg_ctl.
const GRACE: Duration = Duration::from_secs(15);
/// pg_ctl's log of a start, until the server's own logging takes over.
const START_LOG: &str = "pgaa-start.log";

/// The server didn't do as it was told.
#[derive(Debug, Error)]
pub enum ServerError {
    /// We can't act for the owner of its files.
    #[error("PostgreSQL's files can't be used")]
    Owner(#[from] OwnerError),
    /// systemd can't be asked.
    #[error("the restart can't be asked for")]
    Request(#[from] DurableError),
    /// A program failed.
    #[error("PostgreSQL's own program failed{}", log_words(log))]
    Program {
        /// Which one, and how.
        source: ChildError,
        /// The end of the server's log, where it has one.
        log: String,
    },
}

fn log_words(log: &str) -> String {
    if log.is_empty() {
        String::new()
    } else {
        format!("; the server's log ends with:\n{log}")
    }
}

impl From<ChildError> for ServerError {
    fn from(source: ChildError) -> ServerError {
        ServerError::Program {
            source,
            log: String::new(),
        }
    }
}

/// Does the server run?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is no cluster.
    Missing,
    /// It doesn't run.
    Stopped,
    /// It runs.
    Running,
}

/// How a server is stopped (`pg_ctl stop --mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, then a checkpoint: the usual way.
    Fast,
    /// Like a crash.
    Immediate,
}

/// Is a new cluster flushed to the disk before it is called made?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Yes.
    Now,
    /// When the system gets to it: for a demonstration, where seconds count and data don't.
    Later,
}

impl StopMode {
    fn word(self) -> &'static str {
        match self {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        }
    }
}

/// How far a restart has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// The server is up again.
    Done,
    /// systemd was asked and is about to do it.
    AskedFor,
}

/// Restarts the local server: by the configured command, by asking for it where only systemd
/// may (the agent has no rights of its own on a packaged system), else directly.
pub fn restart(settings: &Settings) -> Result<Restart, ServerError> {
    let postgres = &settings.postgres;
    if let Some((program, arguments)) = postgres.restart_command.split_first() {
        run(Command::new(program).args(arguments), RESTART_MAX)?;
        return Ok(Restart::Done);
    }
    let server = Server::new(postgres)?;
    let supervised = matches!(server.kind, Kind::Debian { .. }) && Path::new(SYSTEMD).exists();
    if supervised && !geteuid().is_root() {
        durable::write(&settings.paths.run_dir.join(RESTART_REQUEST), b"", 0o600)?;
        return Ok(Restart::AskedFor);
    }
    server.restart(RESTART_MAX).map(|()| Restart::Done)
}

/// Has systemd start a cluster that was just made; false where that isn't systemd's business.
/// When systemd planned the boot there was none, and the plan of a boot is not made twice.
/// Returns at once: the start is ordered behind the unit that asks for it.
pub fn start_by_systemd(settings: &Settings) -> Result<bool, ServerError> {
    let instance = Kind::of(&settings.postgres.config_dir).instance();
    let Some(instance) = instance.filter(|_| Path::new(SYSTEMD).exists() && geteuid().is_root())
    else {
        return Ok(false);
    };
    // From now on postgresql.service includes it (postgresql-generator).
    run(Command::new("systemctl").arg("daemon-reload"), ASK_MAX)?;
    let unit = format!("postgresql@{instance}.service");
    run(
        Command::new("systemctl").args(["start", "--no-block", &unit]),
        ASK_MAX,
    )?;
    Ok(true)
}

/// The local PostgreSQL cluster.
#[derive(Debug, Clone)]
pub struct Server {
    postgres: PostgresSettings,
    owner: Owner,
    kind: Kind,
}

impl Server {
    /// The cluster that the settings mean; it need not exist yet.
    pub fn new(postgres: &PostgresSettings) -> Result<Server, ServerError> {
        Ok(Server {
            owner: Owner::of(&postgres.data_dir)?,
            kind: Kind::of(&postgres.config_dir),
            postgres: postgres.clone(),
        })
    }

    /// The user who owns it.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// How it is laid out.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    fn program(&self, name: &str) -> Command {
        self.owner.command(&self.postgres.bin_dir.join(name))
    }

    /// Makes a new, empty cluster and doesn't start it. Its directory must be missing or empty.
    pub fn create(&self, flush: Flush) -> Result<(), ServerError> {
        let superuser = format!("--username={}", self.postgres.superuser);
        let options = [
            "--data-checksums",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            superuser.as_str(),
        ];
        let mut command = match &self.kind {
            Kind::Debian { version, name } => {
                let mut command = self.owner.command(Path::new("pg_createcluster"));
                command
                    .args(["--locale=C.UTF-8", "--encoding=UTF8", "--datadir"])
                    .arg(&self.postgres.data_dir)
                    .arg(format!("--port={}", self.postgres.port))
                    .arg("--socketdir")
                    .arg(&self.postgres.socket_dir)
                    .args([version, name, "--"]);
                command
            }
            Kind::Bare => {
                let mut command = self.program("initdb");
                command.args(["--locale=C.UTF-8", "--encoding=UTF8", "--pgdata"]);
                command.arg(&self.postgres.data_dir);
                command
            }
        };
        command.args(options);
        if flush == Flush::Later {
            command.arg("--no-sync");
        }
        run(&mut command, CREATE_MAX)?;
        Ok(())
    }

    /// Does it run?
    pub fn status(&self) -> Result<Status, ServerError> {
        let data_dir = &self.postgres.data_dir;
        let exists = self.owner.act(|| data_dir.join("PG_VERSION").exists())?;
        if !exists {
            return Ok(Status::Missing);
        }
        let mut command = self.program("pg_ctl");
        command.arg("status").arg("--pgdata").arg(data_dir);
        match run(&mut command, ASK_MAX) {
            Ok(_) => Ok(Status::Running),
            // pg_ctl(1): 3 when no server runs.
            Err(ChildError::Failed { code: Some(3), .. }) => Ok(Status::Stopped),
            Err(error) => Err(error.into()),
        }
    }

    /// Is it certain that nothing was ever created in the cluster? False while it runs, because
    /// its control file lags behind then.
    pub fn is_pristine(&self) -> Result<bool, ServerError> {
        let mut command = self.program("pg_controldata");
        command.env("LC_ALL", "C").arg(&self.postgres.data_dir);
        let printed = run(&mut command, ASK_MAX)?;
        let value = |label: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(label));
            line.map_or("", str::trim)
        };
        let next_oid = value("Latest checkpoint's NextOID:").parse::<u32>();
        let stopped = value("Database cluster state:") == "shut down";
        Ok(stopped && next_oid.is_ok_and(|oid| oid < FIRST_NORMAL_OID))
    }

    /// Starts it and waits until it takes connections.
    pub fn start(&self, time_max: Duration) -> Result<(), ServerError> {
        let mut options = Vec::new();
        // Debian's wrapper knows both by itself.
        if self.kind == Kind::Bare {
            options.push(OsString::from("--log"));
            options.push(self.postgres.data_dir.join(START_LOG).into());
            if self.postgres.config_dir != self.postgres.data_dir {
                let file = self.postgres.config_dir.join("postgresql.conf");
                options.push(OsString::from("--options"));
                options.push(OsString::from(format!("-c config_file={}", file.display())));
            }
        }
        self.control("start", &options, time_max)
    }

    /// Stops it and waits until it is gone.
    pub fn stop(&self, mode: StopMode, time_max: Duration) -> Result<(), ServerError> {
        let options = match (mode, &self.kind) {
            // The wrapper's own mode; with an option it would pass systemd by.
            (StopMode::Fast, Kind::Debian { .. }) => Vec::new(),
            (StopMode::Fast | StopMode::Immediate, _) => {
                vec![OsString::from("--mode"), OsString::from(mode.word())]
            }
        };
        self.control("stop", &options, time_max)
    }

    /// Stops it if it runs, and starts it.
    pub fn restart(&self, time_max: Duration) -> Result<(), ServerError> {
        if self.status()? == Status::Running {
            self.stop(StopMode::Fast, time_max)?;
        }
        self.start(time_max)
    }

    /// Runs pg_ctl, or Debian's wrapper around it, which also tells systemd.
    fn control(
        &self,
        verb: &str,
        options: &[OsString],
        time_max: Duration,
    ) -> Result<(), ServerError> {
        let mut command = match &self.kind {
            Kind::Debian { version, name } => {
                let wrapper = Path::new("pg_ctlcluster");
                // As root it hands over to systemd, or becomes the owner by itself.
                let mut command = if geteuid().is_root() {
                    Command::new(wrapper)
                } else {
                    self.owner.command(wrapper)
                };
                command.args([version, name, verb]).args(options);
                command
            }
            Kind::Bare => {
                let mut command = self.program("pg_ctl");
                command.args([verb, "--wait", "--timeout"]);
                command.arg(time_max.as_secs().to_string()).arg("--pgdata");
                command.arg(&self.postgres.data_dir).args(options);
                command
            }
        };
        match run(&mut command, time_max.saturating_add(GRACE)) {
            Ok(_) => Ok(()),
            Err(source) => Err(ServerError::Program {
                source,
                log: self.log_tail(),
            }),
        }
    }

    /// The end of the server's newest log file, as far as one can be found.
    fn log_tail(&self) -> String {
        let data_dir = &self.postgres.data_dir;
        let read = self.owner.act(|| {
            // "stderr log/postgresql-Fri.log", written by the logging collector.
            let current = fs::read_to_string(data_dir.join("current_logfiles")).unwrap_or_default();
            let stderr = current
                .lines()
                .find_map(|line| line.strip_prefix("stderr "));
            let start = match &self.kind {
                Kind::Debian { version, name } => {
                    format!("/var/log/postgresql/postgresql-{version}-{name}.log")
                }
                Kind::Bare => START_LOG.to_owned(),
            };
            let files = [Some(start), stderr.map(str::to_owned)];
            let texts = files.into_iter().flatten().filter_map(|file| {
                let bytes = fs::read(data_dir.join(file)).ok()?;
                Some(tail(&String::from_utf8_lossy(&bytes)))
            });
            texts
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join("\n")
        });
        read.unwrap_or_default()
    }

    /// The server's default of `output_plugin_libraries`; `None` where this minor version
    /// doesn't know the parameter, which is fatal in a configuration file there.
    pub fn output_plugins(&self) -> Result<Option<String>, ServerError> {
        // Needs no cluster, unlike `postgres -C`, and so works before there is one.
        let printed = run(self.program("postgres").arg("--describe-config"), ASK_MAX)?;
        let line = printed
            .lines()
            .find(|line| line.starts_with("output_plugin_libraries\t"));
        Ok(line.map(|line| line.split('\t').nth(4).unwrap_or_default().to_owned()))
    }

    /// Is pglogical installed for this server?
    pub fn has_pglogical(&self) -> Result<bool, ServerError> {
        let beside = self.postgres.bin_dir.join("../lib/pglogical.so");
        if beside.exists() {
            return Ok(true);
        }
        let printed = run(self.program("pg_config").arg("--pkglibdir"), ASK_MAX)?;
        Ok(Path::new(printed.trim()).join("pglogical.so").exists())
    }
}
