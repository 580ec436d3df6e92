//! A process the tests started, and may therefore end: the agent, or a PostgreSQL server with
//! its children.
//!
//! Must not signal anything but that process and its descendants.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pgaa_agent::clock::Clocks;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::command::log_file;
use std::path::Path;

/// How long a process may take to be gone after it was told to.
const END_MAX: Duration = Duration::from_secs(20);

/// How often is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A running process.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
}

impl Daemon {
    /// Starts it, with all its output appended to a file.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Daemon> {
        command
            .stdout(Stdio::from(log_file(log)?))
            .stderr(Stdio::from(log_file(log)?));
        let child = command
            .spawn()
            .with_context(|| format!("{name} can't be started"))?;
        Ok(Daemon {
            child,
            name: name.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Does it run?
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends one signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send(self.pid(), signal).with_context(|| format!("{} can't be signalled", self.name))
    }

    /// Sends one signal to the process, then to all its descendants.
    pub fn signal_tree(&self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        for pid in descendants(self.pid())? {
            // A descendant may have ended in the meantime.
            let _ = send(pid, signal);
        }
        Ok(())
    }

    /// `kill -9`; then what is left of its descendants goes too, as systemd clears a unit's
    /// control group before it starts the unit again.
    pub fn kill9(mut self) -> Result<()> {
        let children = descendants(self.pid())?;
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        await_end(&children, Duration::from_secs(2))
            .or_else(|_| {
                children
                    .iter()
                    .for_each(|pid| drop(send(*pid, Signal::SIGKILL)));
                await_end(&children, END_MAX)
            })
            .with_context(|| format!("children of {} outlive it", self.name))
    }

    /// `kill -9` of the process alone: what it has started lives on, as with a command.
    pub fn kill9_alone(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end with a signal, and waits until it and its descendants have.
    pub fn stop(mut self, signal: Signal) -> Result<()> {
        let children = descendants(self.pid())?;
        self.signal(signal)?;
        let clocks = Clocks::start();
        while self.is_running()? {
            if clocks.mono().0 > u64::try_from(END_MAX.as_millis())? {
                self.kill9()?;
                bail!("a process did not end within {END_MAX:?} of {signal}");
            }
            sleep(LOOK_EVERY);
        }
        await_end(&children, END_MAX).with_context(|| format!("children of {}", self.name))
    }
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

fn await_end(pids: &[u32], within: Duration) -> Result<()> {
    let clocks = Clocks::start();
    while let Some(pid) = pids.iter().find(|pid| is_alive(**pid)) {
        if clocks.mono().0 > u64::try_from(within.as_millis())? {
            bail!("process {pid} still runs after {within:?}");
        }
        sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Zombies do not count: whoever inherited them will reap them.
fn is_alive(pid: u32) -> bool {
    status_fields(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// State and parent of a process, from `/proc/<pid>/stat` (proc(5)): they follow the command's
/// name, which is in parentheses and may hold anything.
fn status_fields(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// All descendants of a process.
pub fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        if let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>()
            && let Some((_, parent)) = status_fields(pid)
        {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    Ok(found.split_off(1))
}
