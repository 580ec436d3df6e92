//! The demo, from beginning to end: as root, where servers run as `postgres`, and as an ordinary
//! user. Nothing may be left of it, however it ends.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use pgaa_agent::clock::Clocks;
use pgaa_core::status::StatusReport;
use pgaa_tests::cluster::agent_binary;
use pgaa_tests::command::{clean, failure, output, run};
use pgaa_tests::node::SERVER_BIN;
use pgaa_tests::stale::{RunLock, lock, run_directory, run_name, sweep};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// An account that every Debian has, that owns nothing, and that isn't `postgres`.
const ORDINARY: &str = "games";
/// How long a call of `demo` may take, seconds.
const CALL_MAX: &str = "240";
/// How long rows and tables may take to be everywhere.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Somebody who calls `pgaa-agent demo`, with a directory of their own.
struct Caller {
    user: Option<&'static str>,
    home: PathBuf,
    agent: PathBuf,
    _lock: RunLock,
}

impl Caller {
    /// `number` tells the tests of this file apart.
    fn new(user: Option<&'static str>, number: u32) -> Result<Caller> {
        let run_lock = lock()?;
        sweep()?;
        // The scenarios of clusters count their runs from 0.
        let home = run_directory(&run_name(1000 + number));
        fs::create_dir_all(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o755))?;
        let agent = agent_binary(&home)?;
        if let Some(name) = user {
            let account = User::from_name(name)?.with_context(|| format!("no account {name}"))?;
            chown(
                &home,
                Some(account.uid.as_raw()),
                Some(account.gid.as_raw()),
            )?;
        }
        Ok(Caller {
            user,
            home,
            agent,
            _lock: run_lock,
        })
    }

    fn demo_directory(&self) -> PathBuf {
        self.home.join("d")
    }

    /// `pgaa-agent <arguments>`, ended when it takes too long.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            None => clean("timeout"),
            Some(user) => {
                let mut command = clean("setpriv");
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={user}"));
                command.args(["--clear-groups", "--", "timeout"]);
                command
            }
        };
        command.arg(CALL_MAX).arg(&self.agent).args(arguments);
        command.env("HOME", &self.home).env("TMPDIR", &self.home);
        command
    }

    fn call(&self, arguments: &[&str]) -> Result<String> {
        run(&mut self.command(arguments))
    }

    /// `demo <arguments> --dir DIR`
    fn on_demo(&self, arguments: &[&str]) -> Result<String> {
        let directory = self.demo_directory();
        let directory = directory.to_str().context("not UTF-8")?;
        self.call(&[&["demo"], arguments, &["--dir", directory]].concat())
    }

    /// The nodes, as `-o json` prints them.
    fn nodes(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let printed = self.on_demo(&[arguments, &["-o", "json"]].concat())?;
        let document: Value = serde_json::from_str(&printed).context(printed)?;
        ensure!(
            document["dir"] == text(&self.demo_directory())?,
            "{document}"
        );
        Ok(document["nodes"].as_array().context("no nodes")?.clone())
    }

    fn status(&self, node: &Value) -> Result<StatusReport> {
        let socket = node["socket"].as_str().context("no socket")?;
        let output = output(&mut self.command(&["--socket", socket, "status", "-o", "json"]))?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no report: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // A test that failed on the way; it is the first failure that counts.
        if self.demo_directory().exists()
            && let Err(error) = self.on_demo(&["down"])
        {
            eprintln!("{error:#}");
        }
        if let Err(error) = fs::remove_dir_all(&self.home) {
            eprintln!("{} stays: {error}", self.home.display());
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("not UTF-8")
}

fn sql(node: &Value, statements: &str) -> Result<String> {
    let dsn = node["dsn"].as_str().context("no dsn")?;
    let mut command = clean(format!("{SERVER_BIN}/psql"));
    command.args([
        "-XqAt",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        dsn,
        "-c",
        statements,
    ]);
    run(&mut command)
}

fn eventually(what: &str, condition: impl Fn() -> Result<()>) -> Result<()> {
    let clocks = Clocks::start();
    let start = clocks.mono();
    while let Err(complaint) = condition() {
        if clocks.mono().since(start) > ARRIVAL_MAX {
            return Err(complaint.context(format!("not within {ARRIVAL_MAX:?}: {what}")));
        }
        sleep(LOOK_EVERY);
    }
    eprintln!(
        "{:>7.2} s  {what}",
        clocks.mono().since(start).as_secs_f64()
    );
    Ok(())
}

/// Processes whose working directory or arguments lie below `directory`.
fn processes_below(directory: &Path) -> Result<Vec<String>> {
    let below = text(directory)?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let works_in = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if works_in.to_string_lossy().starts_with(below) || line.contains(below) {
            found.push(format!("{} {line}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(found)
}

fn nothing_is_left(directory: &Path) -> Result<()> {
    ensure!(
        !directory.exists(),
        "{} is still there",
        directory.display()
    );
    let left = processes_below(directory)?;
    ensure!(left.is_empty(), "still running: {left:#?}");
    Ok(())
}

/// Rows are written on each node, and each has all of them.
fn replicates(caller: &Caller, nodes: &[Value], rows: usize) -> Result<()> {
    let replicated = |node: &Value| {
        let tables = caller.status(node)?.tables;
        let there = tables
            .replicated
            .iter()
            .any(|table| table == "public.orders");
        ensure!(
            there,
            "public.orders is not replicated yet: {:?}",
            tables.waiting
        );
        Ok(())
    };
    eventually("the table is replicated", || {
        nodes.iter().try_for_each(replicated)
    })?;
    for node in nodes {
        let name = node["name"].as_str().context("no name")?;
        sql(
            node,
            &format!("insert into public.orders (node) values ('{name}')"),
        )?;
    }
    let expected = rows + nodes.len();
    eventually("every node has every row", || {
        let held = nodes.iter().map(|node| {
            sql(
                node,
                "select count(*), md5(string_agg(t::text, ',' order by id)) from public.orders t",
            )
        });
        let held = held.collect::<Result<Vec<String>>>()?;
        let same = held.iter().all(|digest| *digest == held[0]);
        ensure!(
            same && held[0].starts_with(&format!("{expected}|")),
            "{held:?}"
        );
        Ok(())
    })
}

/// Up, rows, one more node, rows, down.
fn lives_and_goes(caller: &Caller) -> Result<()> {
    let nodes = caller.nodes(&["up", "--nodes", "2"])?;
    ensure!(nodes.len() == 2 && nodes[1]["name"] == "n2", "{nodes:?}");
    for node in &nodes {
        let pid = node["agent_pid"].as_u64().context("no agent_pid")?;
        ensure!(
            u64::from(caller.status(node)?.answered_by.pid) == pid,
            "another agent answers"
        );
        let data_dir = node["data_dir"].as_str().context("no data_dir")?;
        ensure!(
            sql(node, "show data_directory")? == data_dir,
            "another server answers"
        );
        let table = "create table public.orders (id uuid primary key default gen_random_uuid(), \
                     node text not null, at timestamptz not null default now())";
        sql(node, table)?;
    }
    replicates(caller, &nodes, 0)?;
    let nodes = caller.nodes(&["add"])?;
    ensure!(nodes.len() == 3 && nodes[2]["name"] == "n3", "{nodes:?}");
    replicates(caller, &nodes, 2)?;
    caller.on_demo(&["down"])?;
    nothing_is_left(&caller.demo_directory())
}

#[test]
fn root_brings_a_demo_up_adds_a_node_and_takes_it_down() -> Result<()> {
    lives_and_goes(&Caller::new(None, 0)?)
}

#[test]
fn an_ordinary_user_brings_a_demo_up_adds_a_node_and_takes_it_down() -> Result<()> {
    lives_and_goes(&Caller::new(Some(ORDINARY), 1)?)
}

#[test]
fn without_a_terminal_the_demo_shows_itself_and_goes() -> Result<()> {
    let caller = Caller::new(None, 2)?;
    let shown = caller.call(&["demo"])?;
    eprintln!("{shown}");
    for name in ["n1", "n2", "n3"] {
        let psql = format!("{name}  psql 'postgresql://demo:");
        ensure!(shown.contains(&psql), "no line {psql}");
    }
    ensure!(shown.contains("every node has all 3"), "rows are not shown");
    let left: Vec<_> = fs::read_dir(&caller.home)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left == [caller.agent.clone()], "left behind: {left:?}");
    let running = processes_below(&caller.home)?;
    ensure!(running.is_empty(), "still running: {running:#?}");
    Ok(())
}

#[test]
fn a_reader_that_goes_early_leaves_nothing() -> Result<()> {
    let caller = Caller::new(None, 7)?;
    let mut command = caller.command(&["demo", "--nodes", "1"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "the results went nowhere, and that counts as done"
    );
    ensure!(said.contains("standard output is closed"), "{said}");
    let left: Vec<_> = fs::read_dir(&caller.home)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    ensure!(left == [caller.agent.clone()], "left behind: {left:?}");
    Ok(())
}

#[test]
fn a_start_that_is_interrupted_leaves_nothing() -> Result<()> {
    let caller = Caller::new(None, 3)?;
    let directory = caller.demo_directory();
    // While clusters are made, while servers start, and while the mesh forms.
    for sign in [
        "n1/data/PG_VERSION",
        "log/n1-agent.log",
        "n1/run/agent.sock",
    ] {
        let output = signalled_at(&caller, Signal::SIGINT, &directory.join(sign))?;
        ensure!(
            !output.status.success(),
            "an interrupted start counts as done"
        );
        nothing_is_left(&directory).with_context(|| format!("interrupted at {sign}"))?;
    }
    Ok(())
}

#[test]
fn what_a_killed_start_left_is_taken_down() -> Result<()> {
    let caller = Caller::new(None, 5)?;
    let directory = caller.demo_directory();
    for sign in [
        "n1/data/PG_VERSION",
        "log/n1-agent.log",
        "n1/run/agent.sock",
    ] {
        signalled_at(&caller, Signal::SIGKILL, &directory.join(sign))?;
        caller
            .on_demo(&["down"])
            .with_context(|| format!("killed at {sign}"))?;
        nothing_is_left(&directory).with_context(|| format!("killed at {sign}"))?;
    }
    Ok(())
}

/// Starts two nodes, and sends `signal` to the one who starts them as soon as `sign` is there.
fn signalled_at(caller: &Caller, signal: Signal, sign: &Path) -> Result<Output> {
    let (child, mut command) = begin(caller)?;
    let begun = eventually(&format!("{} is there", sign.display()), || {
        ensure!(sign.exists(), "not yet");
        Ok(())
    });
    kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
    conclude(child, &mut command, begun)
}

fn begin(caller: &Caller) -> Result<(Child, Command)> {
    let directory = caller.demo_directory();
    let mut command = clean(&caller.agent);
    command.args(["demo", "up", "--nodes", "2", "--dir", text(&directory)?]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((child, command))
}

fn conclude(child: Child, command: &mut Command, so_far: Result<()>) -> Result<Output> {
    let output = child.wait_with_output()?;
    so_far.with_context(|| failure(command, &output))?;
    Ok(output)
}

#[test]
fn a_start_that_fails_says_why_and_keeps_the_files() -> Result<()> {
    let caller = Caller::new(None, 6)?;
    let directory = caller.demo_directory();
    let (child, mut command) = begin(&caller)?;
    let killed = eventually("the agent of n2 is started and killed", || {
        let state: Value = serde_json::from_slice(&fs::read(directory.join("demo.json"))?)?;
        let pid = state["nodes"][1]["agent"]["pid"]
            .as_i64()
            .context("not yet")?;
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL)?;
        Ok(())
    });
    let output = conclude(child, &mut command, killed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it counts as done");
    let down = format!("pgaa-agent demo down --dir {}", directory.display());
    for part in [
        "n2: the agent has ended by itself",
        "---- n2: agent (",
        "---- n2: PostgreSQL (",
        &down,
    ] {
        ensure!(said.contains(part), "{part:?} is not in: {said}");
    }
    ensure!(
        !said.contains("---- n1"),
        "the log of a node that didn't fail is shown: {said}"
    );
    ensure!(
        directory.join("n2/data/PG_VERSION").exists(),
        "the files are gone"
    );
    let running = processes_below(&directory)?;
    ensure!(running.is_empty(), "still running: {running:#?}");
    caller.on_demo(&["down"])?;
    nothing_is_left(&directory)
}

#[test]
fn a_directory_that_is_no_demo_s_is_left_alone() -> Result<()> {
    let caller = Caller::new(None, 4)?;
    let foreign = caller.home.join("precious");
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("file"), "")?;
    for verb in ["up", "add", "down"] {
        let output = output(&mut caller.command(&["demo", verb, "--dir", text(&foreign)?]))?;
        if output.status.success() {
            bail!("demo {verb} was done in a directory that holds something else");
        }
    }
    let left: Vec<_> = fs::read_dir(&foreign)?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    ensure!(left == ["file"], "{left:?}");
    Ok(())
}
