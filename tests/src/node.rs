//! One node: a namespace, a PostgreSQL server, an agent, and the files both need.
//!
//! Speaks to the server with psql and to the agent with its own command line, as an operator
//! does. Must not look into the agent's files.

use crate::command::{
    as_server, as_server_in, clean, failure, output, run, server_directory, server_file, tail,
};
use crate::process::Daemon;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use pgaa_core::status::StatusReport;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The database every cluster of the tests replicates.
pub const DATABASE: &str = "shop";

/// The role of an application, which the gate keeps out until a node is ready.
pub const APPLICATION: &str = "app";

/// Where the server's programs lie.
pub const SERVER_BIN: &str = "/usr/lib/postgresql/15/bin";

/// What the configuration file of a node says.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `cluster.name`
    pub cluster: String,
    /// `cluster.expect`
    pub expect: usize,
    /// `cluster.seeds`
    pub seeds: Vec<String>,
    /// Content of the token file.
    pub token: String,
    /// `node.replaces`
    pub replaces: Option<String>,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    name: String,
    namespace: String,
    address: Mutex<Ipv4Addr>,
    directory: PathBuf,
    agent_binary: PathBuf,
    agent: Mutex<Option<Daemon>>,
    postgres: Mutex<Option<Daemon>>,
}

impl Node {
    /// Makes the directories of a node. `initdb` follows with [`Node::begin_initdb`].
    pub fn create(
        name: &str,
        namespace: String,
        address: Ipv4Addr,
        run_directory: &Path,
        agent_binary: PathBuf,
    ) -> Result<Node> {
        let directory = run_directory.join(name);
        server_directory(&directory, 0o755)?;
        for (part, mode) in [
            ("sock", 0o755),
            ("state", 0o700),
            ("run", 0o755),
            ("failpoints", 0o755),
        ] {
            server_directory(&directory.join(part), mode)?;
        }
        Ok(Node {
            name: name.to_owned(),
            namespace,
            address: Mutex::new(address),
            directory,
            agent_binary,
            agent: Mutex::new(None),
            postgres: Mutex::new(None),
        })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the node has another address now; the network gives it.
    pub(crate) fn note_address(&self, address: Ipv4Addr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// The directory of the server's Unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// A file of the harness in this node's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Has the agent stand still when it reaches a point of the protocol.
    pub fn hold(&self, point: &str) -> Result<()> {
        // That it stood still there before says nothing of this time.
        if self.is_held(point) {
            fs::remove_file(self.reached(point))?;
        }
        server_file(&self.file("failpoints").join(point), "", 0o644)
    }

    fn reached(&self, point: &str) -> PathBuf {
        self.file("failpoints").join(format!("{point}.reached"))
    }

    /// Does it stand still there?
    #[must_use]
    pub fn is_held(&self, point: &str) -> bool {
        self.reached(point).exists()
    }

    /// Lets it go on.
    pub fn let_go(&self, point: &str) -> Result<()> {
        Ok(fs::remove_file(self.file("failpoints").join(point))?)
    }

    /// The data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The agent's configuration file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("agent.toml")
    }

    /// Starts `initdb`. Each node runs its own: a copied data directory would give all nodes one
    /// system identifier, which the mesh refuses.
    pub fn begin_initdb(&self) -> Result<Child> {
        let mut command = as_server(format!("{SERVER_BIN}/initdb"));
        command.args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"]);
        command.args(["--auth-local=peer", "--auth-host=scram-sha-256", "-D"]);
        command.arg(self.data_directory());
        let log = crate::command::log_file(&self.directory.join("initdb.log"))?;
        command
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("initdb can't be started")
    }

    /// Writes what an operator would have in place before the agent comes: the server's own
    /// settings, a line for applications, the agent's configuration and the token.
    pub fn configure(&self, config: &NodeConfig) -> Result<()> {
        // `fsync = off` loses nothing here: kill -9 leaves the kernel's page cache alone.
        let settings = format!(
            "unix_socket_directories = '{}'\nport = 5432\nfsync = off\nshared_buffers = 32MB\n",
            self.socket_directory().display()
        );
        self.amend("postgresql.conf", &settings)?;
        let line = format!("host all {APPLICATION} 10.77.0.0/24 scram-sha-256\n");
        self.amend("pg_hba.conf", &line)?;
        self.configure_agent(config)
    }

    /// Adds lines to a file of the data directory, as an operator does by hand.
    pub fn amend(&self, file: &str, lines: &str) -> Result<()> {
        let path = self.data_directory().join(file);
        let text = fs::read_to_string(&path)?;
        server_file(&path, &format!("{text}\n{lines}"), 0o600)
    }

    /// Adds a section to the agent's configuration.
    pub fn amend_agent(&self, lines: &str) -> Result<()> {
        let path = self.config_file();
        let text = fs::read_to_string(&path)?;
        server_file(&path, &format!("{text}\n{lines}"), 0o644)
    }

    /// Shifts the clock of the agent and the server by so many seconds: of those that run, when
    /// it was shifted before they were started, and of those to be started.
    pub fn shift_clock(&self, seconds: f64) -> Result<()> {
        crate::time::shift(&self.file("clock"), seconds)
    }

    /// A program of this node, in its namespace, as the servers' account, with its clock.
    fn program(&self, program: &Path) -> Command {
        let clock = self.file("clock");
        if !clock.exists() {
            return as_server_in(&self.namespace, program);
        }
        // Set by `env`, which is no longer root: what the library shares is the account's own.
        let mut command = as_server_in(&self.namespace, "env");
        command.args(crate::time::shifted_by(&clock)).arg(program);
        command
    }

    /// Does this server know a setting? Asks the program, not a running server.
    pub fn server_knows(&self, setting: &str) -> Result<bool> {
        let mut command = as_server(format!("{SERVER_BIN}/postgres"));
        command
            .args(["-C", setting, "-D"])
            .arg(self.data_directory());
        Ok(output(&mut command)?.status.success())
    }

    /// Writes the agent's configuration and the token alone.
    pub fn configure_agent(&self, config: &NodeConfig) -> Result<()> {
        server_file(
            &self.directory.join("token"),
            &format!("{}\n", config.token),
            0o600,
        )?;
        server_file(&self.config_file(), &self.render(config), 0o644)
    }

    fn render(&self, config: &NodeConfig) -> String {
        let at = |part: &str| self.directory.join(part).display().to_string();
        let seeds: Vec<String> = config
            .seeds
            .iter()
            .map(|seed| format!("{seed:?}"))
            .collect();
        format!(
            "[cluster]\nname = {:?}\nexpect = {}\nseeds = [{}]\ntoken_file = {:?}\n\n\
             [node]\nname = {:?}\nreplaces = {:?}\n\n\
             [postgres]\ndatabase = {DATABASE:?}\ndata_dir = {:?}\nbin_dir = {SERVER_BIN:?}\n\
             socket_dir = {:?}\nport = 5432\nexcluded_schemas = [\"harness\"]\n\n\
             [paths]\nstate_dir = {:?}\nrun_dir = {:?}\n",
            config.cluster,
            config.expect,
            seeds.join(", "),
            at("token"),
            self.name,
            config.replaces.as_deref().unwrap_or_default(),
            at("data"),
            at("sock"),
            at("state"),
            at("run"),
        )
    }

    /// `pgaa-agent --config FILE <arguments>` inside the namespace, as the server's account.
    #[must_use]
    pub fn agent_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(&self.agent_binary);
        command
            .env("FAILPOINTS_DIR", self.file("failpoints"))
            .arg("--config")
            .arg(self.config_file())
            .args(arguments);
        command
    }

    /// `pgaa-agent --socket PATH <arguments>`, as the server's account.
    pub fn ask(&self, arguments: &[&str]) -> Result<Output> {
        self.ask_within(30, arguments)
    }

    /// Like [`Node::ask`], with so many seconds for the answer: a comparison rests most of the time
    /// where the processors are busy.
    pub fn ask_within(&self, seconds: u32, arguments: &[&str]) -> Result<Output> {
        let mut command = as_server("timeout");
        command.arg(seconds.to_string()).arg(&self.agent_binary);
        command
            .arg("--socket")
            .arg(self.agent_socket())
            .args(arguments);
        output(&mut command)
    }

    /// The agent's program.
    #[must_use]
    pub fn agent_program(&self) -> &Path {
        &self.agent_binary
    }

    /// The socket that can do everything.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.directory.join("run/agent.sock")
    }

    /// Like [`Node::ask`], where only success will do.
    pub fn order(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ask(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned();
        ensure!(
            output.status.success(),
            "{}: pgaa-agent {} ended with {}\n{said}\n{}",
            self.name,
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    /// What the agent reports. Exit codes 0 to 2 tell how well it goes, and come with a report.
    pub fn status(&self) -> Result<StatusReport> {
        let output = self.ask(&["status", "-o", "json"])?;
        if !matches!(output.status.code(), Some(0..=2)) {
            bail!(
                "{}: status ended with {}: {}",
                self.name,
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{}: status is not what the core calls a report", self.name))
    }

    /// Runs SQL as the superuser on the server's Unix socket, which works across network
    /// namespaces and passes the gate. Columns are separated by `|`.
    pub fn sql(&self, statements: &str) -> Result<String> {
        self.sql_in(DATABASE, statements)
    }

    /// Changes rows on this node alone: what carries a foreign origin is not sent to others.
    pub fn sql_unsent(&self, statements: &str) -> Result<String> {
        self.sql_patiently(&format!(
            "select case when pg_replication_origin_oid('unsent') is null
                    then pg_replication_origin_create('unsent') end;
             select pg_replication_origin_session_setup('unsent');
             begin;
             select pg_replication_origin_xact_setup('0/1', now());
             set local session_replication_role = replica;
             {statements};
             commit;
             select pg_replication_origin_session_reset()"
        ))
    }

    /// The same in another database.
    pub fn sql_in(&self, database: &str, statements: &str) -> Result<String> {
        self.psql(database, statements, "60s")
    }

    /// The same in the replicated database, for as long as it takes.
    pub fn sql_patiently(&self, statements: &str) -> Result<String> {
        self.psql(DATABASE, statements, "0")
    }

    fn psql(&self, database: &str, statements: &str, timeout: &str) -> Result<String> {
        let mut command = as_server(format!("{SERVER_BIN}/psql"));
        command
            .env("PGCONNECT_TIMEOUT", "5")
            .env("PGOPTIONS", format!("-c statement_timeout={timeout}"));
        command.args([
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-p",
            "5432",
            "-U",
            "postgres",
            "-h",
        ]);
        command
            .arg(self.socket_directory())
            .args(["-d", database, "-c", statements]);
        run(&mut command).with_context(|| format!("{}: SQL failed", self.name))
    }

    /// Runs SQL as an application on this node does: over TCP, with a password.
    pub fn application_sql(&self, statements: &str) -> Result<String> {
        self.remote_sql(self, statements)
    }

    /// Does an application on this node reach the server of another?
    pub fn reaches(&self, other: &Node) -> Result<()> {
        self.remote_sql(other, "select 1").map(drop)
    }

    fn remote_sql(&self, server: &Node, statements: &str) -> Result<String> {
        let mut command = as_server_in(&self.namespace, format!("{SERVER_BIN}/psql"));
        // libpq waits no less than two seconds.
        command
            .env("PGPASSWORD", APPLICATION)
            .env("PGCONNECT_TIMEOUT", "2");
        command.args([
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-p",
            "5432",
            "-U",
            APPLICATION,
        ]);
        command.args([
            "-h",
            &server.address().to_string(),
            "-d",
            DATABASE,
            "-c",
            statements,
        ]);
        run(&mut command)
            .with_context(|| format!("an application on {} at {}", self.name, server.name))
    }

    /// Starts the agent.
    pub fn start_agent(&self) -> Result<()> {
        let log = self.directory.join("agent.log");
        let agent = Daemon::spawn("pgaa-agent", &mut self.agent_command(&["run"]), &log)?;
        *lock(&self.agent) = Some(agent);
        Ok(())
    }

    /// Starts PostgreSQL; returns at once.
    pub fn start_postgres(&self) -> Result<()> {
        let mut command = self.program(Path::new(&format!("{SERVER_BIN}/postgres")));
        command.arg("-D").arg(self.data_directory());
        let log = self.directory.join("postgres.log");
        *lock(&self.postgres) = Some(Daemon::spawn("postgres", &mut command, &log)?);
        Ok(())
    }

    /// `kill -9` of the agent.
    pub fn kill9_agent(&self) -> Result<()> {
        lock(&self.agent)
            .take()
            .context("the agent does not run")?
            .kill9()
    }

    /// `kill -9` of the postmaster; its children go as with a systemd unit.
    pub fn kill9_postmaster(&self) -> Result<()> {
        lock(&self.postgres)
            .take()
            .context("PostgreSQL does not run")?
            .kill9()
    }

    /// Ends the agent with SIGTERM, as `systemctl stop` does. That is no leave.
    pub fn stop_agent(&self) -> Result<()> {
        lock(&self.agent)
            .take()
            .context("the agent does not run")?
            .stop(Signal::SIGTERM)
    }

    /// Ends PostgreSQL with a fast shutdown.
    pub fn stop_postgres(&self) -> Result<()> {
        lock(&self.postgres)
            .take()
            .context("PostgreSQL does not run")?
            .stop(Signal::SIGINT)
    }

    /// Was the agent started, and has it ended without being told to?
    #[must_use]
    pub fn agent_has_died(&self) -> bool {
        lock(&self.agent)
            .as_mut()
            .is_some_and(|agent| matches!(agent.is_running(), Ok(false)))
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(lock(&self.agent)
            .as_ref()
            .context("the agent does not run")?
            .pid())
    }

    /// Stops every process of the node where it is, as a hypervisor pauses a machine.
    pub fn freeze(&self) -> Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    fn signal_all(&self, signal: Signal) -> Result<()> {
        for daemon in [&self.agent, &self.postgres] {
            if let Some(daemon) = lock(daemon).as_ref() {
                daemon.signal_tree(signal)?;
            }
        }
        Ok(())
    }

    /// Everything the agent has logged.
    #[must_use]
    pub fn agent_log(&self) -> String {
        tail(&self.directory.join("agent.log"), usize::MAX)
    }

    /// What a person wants to see of this node when a scenario fails.
    #[must_use]
    pub fn portrait(&self) -> String {
        let status = match self.ask(&["status"]) {
            Ok(output) if output.stderr.is_empty() => {
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Ok(output) => failure(&clean("pgaa-agent status"), &output),
            Err(error) => format!("{error:#}"),
        };
        let mut text = format!(
            "\n===== {} ({}) =====\n{status}\n----- agent log\n{}\n----- PostgreSQL log\n{}\n",
            self.name,
            self.address(),
            tail(&self.directory.join("agent.log"), 60),
            tail(&self.directory.join("postgres.log"), 25),
        );
        if let Some(path) = self.collected_log() {
            text.push_str(&format!("----- {}\n{}\n", path.display(), tail(&path, 25)));
        }
        text
    }

    /// The newest plain file of PostgreSQL's logging collector, where one runs.
    fn collected_log(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.data_directory().join("log")).ok()?;
        let logs = entries.filter_map(|entry| Some(entry.ok()?.path()));
        logs.filter(|path| path.extension().is_some_and(|end| end == "log"))
            .max()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for daemon in [&self.agent, &self.postgres] {
            if let Some(daemon) = lock(daemon).take()
                && let Err(error) = daemon.kill9()
            {
                eprintln!("{}: {error:#}", self.name);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
