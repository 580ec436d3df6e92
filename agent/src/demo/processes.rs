//! Which processes belong to the demo, and how they are ended.
//!
//! A process id alone proves nothing, because the kernel uses it again: a process counts as the
//! demo's by its start time, or by its program together with the directory or configuration file
//! it works on. No other process is ever signalled.

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// How often is looked whether processes are gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One process, recognisable after its id was used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
    pub start_ticks: u64,
}

/// What `/proc/PID/stat` says.
struct Stat {
    state: char,
    parent: u32,
    start_ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The fields follow the program's name, which is in parentheses and may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        // Third after the name is field 5, so the 18th from there is field 22.
        start_ticks: fields.nth(17)?.parse().ok()?,
    })
}

impl Mark {
    /// The mark of a process that runs now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Mark> {
        stat(pid).map(|stat| Mark {
            pid,
            start_ticks: stat.start_ticks,
        })
    }

    /// Does this very process still run? One that only waits to be reaped doesn't.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| {
            stat.start_ticks == self.start_ticks && !matches!(stat.state, 'Z' | 'X')
        })
    }

    /// Sends a signal to this very process; it is no error when it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(i32::try_from(self.pid)?), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => bail!("process {} can't be sent {signal}: {error}", self.pid),
        }
    }
}

/// What makes a process the demo's.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    /// Where PostgreSQL's programs lie, as the kernel names it.
    pub bin_dir: PathBuf,
    /// The agent's program.
    pub agent_program: PathBuf,
    /// The data directories: servers and all their children work in them.
    pub data_dirs: BTreeSet<PathBuf>,
    /// The configuration files of the agents, as in their arguments.
    pub configs: BTreeSet<PathBuf>,
}

/// The processes of the demo that run now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Agents, and programs of PostgreSQL that make or start a server.
    pub starters: BTreeSet<Mark>,
    /// Servers: those of their processes that no other one of them started.
    pub servers: BTreeSet<Mark>,
    /// All processes of servers.
    pub server_processes: BTreeSet<Mark>,
}

/// Looks for them.
#[must_use]
pub fn find(signs: &Signs) -> Found {
    let mut found = Found::default();
    let mut children = Vec::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Some(mark) = Mark::of(pid).filter(Mark::is_alive) else {
            continue;
        };
        if signs.is_server(pid) {
            found.server_processes.insert(mark);
            children.push((mark, stat(pid).map_or(0, |stat| stat.parent)));
        } else if signs.is_agent(pid) || signs.is_tool(pid) {
            found.starters.insert(mark);
        }
    }
    let pids: BTreeSet<u32> = found.server_processes.iter().map(|mark| mark.pid).collect();
    let roots = children
        .into_iter()
        .filter(|(_, parent)| !pids.contains(parent));
    found.servers = roots.map(|(mark, _)| mark).collect();
    found
}

impl Signs {
    /// A server, or one of its children; it names its directory until it works in it.
    fn is_server(&self, pid: u32) -> bool {
        let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
        let ours = works_in.is_ok_and(|path| self.data_dirs.contains(&path));
        (ours || has_word(pid, &self.data_dirs)) && runs(pid, &self.bin_dir.join("postgres"))
    }

    /// initdb or pg_ctl. They outlive a demo that is killed.
    fn is_tool(&self, pid: u32) -> bool {
        let tools = ["initdb", "pg_ctl"];
        has_word(pid, &self.data_dirs)
            && tools.iter().any(|name| runs(pid, &self.bin_dir.join(name)))
    }

    fn is_agent(&self, pid: u32) -> bool {
        has_word(pid, &self.configs) && runs(pid, &self.agent_program)
    }
}

/// Is one of these paths an argument of the process?
fn has_word(pid: u32, paths: &BTreeSet<PathBuf>) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0)
        .any(|word| paths.contains(Path::new(OsStr::from_bytes(word))))
}

/// Does the process run this program, or one that was replaced in its place since?
fn runs(pid: u32, program: &Path) -> bool {
    let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) else {
        return false;
    };
    let bytes = path.as_os_str().as_bytes();
    let plain = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    plain == program.as_os_str().as_bytes()
}

/// Waits until none of the processes that `look` finds is left; returns those that are after
/// `patience`.
pub async fn await_end(
    mut look: impl FnMut() -> BTreeSet<Mark>,
    patience: Duration,
) -> BTreeSet<Mark> {
    let mut left = look();
    let mut waited = Duration::ZERO;
    while !left.is_empty() && waited < patience {
        sleep(LOOK_EVERY).await;
        waited += LOOK_EVERY;
        left = look();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let text = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_ticks), ('S', 1, 4242));
        for cut in 0..text.len() - 6 {
            let _ = parse_stat(&text[..cut]);
        }
    }

    #[tokio::test]
    async fn a_process_is_known_by_its_start_and_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let mark = Mark::of(child.id()).unwrap();
        assert!(mark.is_alive());
        let other = Mark {
            start_ticks: mark.start_ticks + 1,
            ..mark
        };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL).unwrap();
        assert!(
            mark.is_alive(),
            "a process with another start was signalled"
        );
        let alive = || [mark].into_iter().filter(Mark::is_alive).collect();
        assert_eq!(await_end(alive, Duration::from_millis(40)).await.len(), 1);
        mark.signal(Signal::SIGTERM).unwrap();
        assert!(await_end(alive, Duration::from_secs(5)).await.is_empty());
        child.wait().unwrap();
        mark.signal(Signal::SIGTERM).unwrap();
    }

    /// `sleep` stands in for a server.
    #[test]
    fn only_the_right_program_in_the_right_directory_counts() {
        let directory = tempfile::tempdir().unwrap();
        let directory = fs::canonicalize(directory.path()).unwrap();
        let (data, programs) = (directory.join("data"), directory.join("bin"));
        for made in [&data, &programs] {
            fs::create_dir(made).unwrap();
        }
        let program = programs.join("postgres");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = Command::new(&program)
            .arg("60")
            .current_dir(&data)
            .spawn()
            .unwrap();
        let mut signs = Signs {
            bin_dir: programs,
            data_dirs: BTreeSet::from([data]),
            ..Signs::default()
        };
        // The child may not have reached its program yet.
        while !runs(child.id(), &program) {
            std::thread::yield_now();
        }
        let found = find(&signs);
        assert_eq!(
            found.servers,
            BTreeSet::from([Mark::of(child.id()).unwrap()])
        );
        assert_eq!(found.server_processes, found.servers);
        assert!(found.starters.is_empty());
        signs.data_dirs = BTreeSet::from([directory]);
        assert_eq!(find(&signs), Found::default());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
