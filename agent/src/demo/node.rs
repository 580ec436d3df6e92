//! Brings one node up: a new PostgreSQL cluster, the server, the demo's role, the agent.
//!
//! The steps are those of a machine: provision, start, run. Must not wait for the mesh.

use super::interrupt::Interrupt;
use super::place::{NodePlace, Place};
use super::ports::Reserved;
use super::processes::Mark;
use super::render::{SMALL_SERVER, agent_config};
use super::state::{DemoNode, DemoState, Password};
use crate::config::{self, Settings, Sources, Surroundings};
use crate::postgres::owner::{self, Owner};
use crate::postgres::server::Server;
use anyhow::{Context, Result, ensure};
use nix::unistd::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// initdb writes and syncs about 40 MB.
const PROVISION_MAX: Duration = Duration::from_secs(300);
/// An empty server is up in well under a second.
const START_MAX: Duration = Duration::from_secs(60);
/// The search path of everything that is started.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Only the owner may read it.
const PRIVATE: u32 = 0o600;

/// What bringing up a node needs. Owned, because the steps run on threads of their own.
#[derive(Clone)]
pub struct Plan {
    name: String,
    at: NodePlace,
    config_text: String,
    program: PathBuf,
    bin_dir: PathBuf,
    port: u16,
    password: Password,
    owner: Owner,
}

impl Plan {
    /// Plans a node.
    #[must_use]
    pub fn new(state: &DemoState, node: &DemoNode, place: &Place, owner: &Owner) -> Plan {
        Plan {
            name: node.name.clone(),
            at: place.node(&node.name),
            config_text: agent_config(state, node, place),
            program: state.program.clone(),
            bin_dir: state.bin_dir.clone(),
            port: node.ports.postgres,
            password: state.password.clone(),
            owner: owner.clone(),
        }
    }

    /// Makes the cluster and everything else that has to be there before the first start.
    pub fn provision(&self, interrupt: &Interrupt) -> Result<()> {
        interrupt.check()?;
        self.at.create(&self.owner)?;
        fs::write(&self.at.config, &self.config_text)
            .with_context(|| format!("{} can't be written", self.at.config.display()))?;
        let mut command = self.owner.command(&self.program);
        self.complete(&mut command, "provision");
        owner::run(&mut command, PROVISION_MAX)?;
        let file = self.at.data().join("postgresql.conf");
        self.owner
            .act(|| {
                OpenOptions::new()
                    .append(true)
                    .open(&file)?
                    .write_all(SMALL_SERVER.as_bytes())
            })?
            .with_context(|| format!("{} can't be written", file.display()))
    }

    /// Starts the server, and the agent, which waits for the server by itself.
    pub fn start(&self, held: Reserved, interrupt: &Interrupt) -> Result<(Mark, Mark)> {
        interrupt.check()?;
        let server = Server::new(&self.settings()?.postgres)?;
        // From here on the ports are the processes' own.
        drop(held);
        let agent = self.start_agent()?;
        server.start(START_MAX)?;
        let server = self.postmaster()?;
        self.create_role()?;
        Ok((agent, server))
    }

    fn settings(&self) -> Result<Settings> {
        let sources = Sources::single(&self.at.config);
        let loaded = config::load(&sources, &Surroundings::of_machine(&sources))?;
        Ok(loaded.settings)
    }

    /// Completes a call of the agent's program with this node's configuration, and without the
    /// caller's environment: it could hold settings.
    fn complete(&self, command: &mut Command, verb: &str) {
        command.arg("--config").arg(&self.at.config).arg(verb);
        command.env_clear().env("PATH", PATH).env("LANG", "C.UTF-8");
        command.current_dir(&self.at.directory);
    }

    fn start_agent(&self) -> Result<Mark> {
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(PRIVATE)
            .open(&self.at.agent_log)
            .with_context(|| format!("{} can't be written", self.at.agent_log.display()))?;
        // In a session of its own, out of reach of the terminal's signals.
        let mut command = self.owner.command(Path::new("setsid"));
        self.complete(command.arg(&self.program), "run");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("the agent can't be started")?;
        Mark::of(child.id()).context("the agent ended as soon as it was started")
    }

    /// The first line of postmaster.pid is the process id of the server.
    fn postmaster(&self) -> Result<Mark> {
        let file = self.at.data().join("postmaster.pid");
        let text = self.owner.act(|| fs::read_to_string(&file))??;
        let pid = text
            .lines()
            .next()
            .and_then(|line| line.trim().parse().ok());
        pid.and_then(Mark::of)
            .with_context(|| format!("{} names no server", file.display()))
    }

    /// Makes the role of the psql lines, over the Unix socket: the gate is shut for all others.
    fn create_role(&self) -> Result<()> {
        let mut command = self.owner.command(&self.bin_dir.join("psql"));
        command.args([
            "--no-psqlrc",
            "--quiet",
            "--set=ON_ERROR_STOP=1",
            "--username=postgres",
        ]);
        command
            .args(["--dbname=postgres", "--file=-", "--host"])
            .arg(self.at.sockets());
        command.arg(format!("--port={}", self.port));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("psql can't be started")?;
        let script = include_str!("sql/create_role.sql");
        let text = format!("\\set password {}\n{script}", self.password.reveal());
        if let Some(mut stdin) = child.stdin.take() {
            // Where psql ends early, what it said counts more than the broken pipe.
            let _ = stdin.write_all(text.as_bytes());
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the role for psql can't be made: {}",
            said.trim()
        );
        Ok(())
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A path of this very program that `owner` can start: a copy, where the program lies in a
/// directory that is closed to others (root's home, say).
pub fn program_for(owner: &Owner, place: &Place) -> Result<PathBuf> {
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let reached = owner.act(|| fs::metadata(&program).is_ok() && File::open(&program).is_ok())?;
    let for_all = fs::metadata(&program)?.permissions().mode() & 0o001 != 0;
    if !geteuid().is_root() || (reached && for_all) {
        return Ok(program);
    }
    let copy = place.program_copy();
    fs::copy(&program, &copy).with_context(|| {
        format!(
            "{} can't be copied to {}",
            program.display(),
            copy.display()
        )
    })?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}
