//! Runs beside one another, or one that has the machine to itself; and nothing left over from runs
//! that were killed.
//!
//! Only ends processes inside namespaces whose names say that a test made them, and only when
//! that test is gone.

use crate::command::{call, clean, output};
use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What the names of all namespaces and directories of the tests begin with.
pub const PREFIX: &str = "pgaat";

/// Where the tests keep their directories. Short, because the path of a Unix socket may have
/// 107 bytes only.
const ROOT: &str = "/tmp";

/// Held while a cluster runs. Scenarios share the machine, their bounds say "never" and not
/// "slow"; what measures has it alone.
#[derive(Debug)]
pub struct RunLock {
    _lock: Option<Flock<File>>,
}

/// The lock of a process that has the machine to itself until it ends.
static ALONE: OnceLock<Flock<File>> = OnceLock::new();

fn locked(name: &str, how: FlockArg) -> Result<Flock<File>> {
    let path = Path::new(ROOT).join(format!("{PREFIX}{name}.lock"));
    let file = File::options().create(true).append(true).open(&path)?;
    Flock::lock(file, how)
        .map_err(|(_, error)| error)
        .with_context(|| format!("{} can't be locked", path.display()))
}

/// Waits until nothing measures here.
pub fn lock() -> Result<RunLock> {
    let shared = match ALONE.get() {
        Some(_) => None,
        None => Some(locked("", FlockArg::LockShared)?),
    };
    Ok(RunLock { _lock: shared })
}

/// Waits until no cluster runs, and has the machine from then on: two clusters at once on two cores
/// would measure one another.
pub fn be_alone() -> Result<()> {
    if ALONE.get().is_none() {
        let lock = locked("", FlockArg::LockExclusive)?;
        // Somebody else of this process has it otherwise, which is as good.
        let _ = ALONE.set(lock);
    }
    Ok(())
}

/// The name of a run of this process.
#[must_use]
pub fn run_name(number: u32) -> String {
    format!("{PREFIX}-{}-{number}", std::process::id())
}

/// The directory of a run.
#[must_use]
pub fn run_directory(run: &str) -> PathBuf {
    Path::new(ROOT).join(run)
}

/// Removes what runs that were killed left behind.
pub fn sweep() -> Result<()> {
    sweep_after(|| Ok(()))
}

/// The same behind something that must be removed first.
pub fn sweep_after(first: impl FnOnce() -> Result<()>) -> Result<()> {
    // Two that begin at once would remove the same things.
    let _lock = locked("-sweep", FlockArg::LockExclusive)?;
    first()?;
    for namespace in namespaces()? {
        if is_abandoned(&namespace) {
            remove_namespace(&namespace)?;
        }
    }
    for entry in fs::read_dir(ROOT)? {
        let entry = entry?;
        if is_abandoned(&entry.file_name().to_string_lossy()) {
            unmount_below(&entry.path())?;
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Takes away the file systems that are mounted somewhere below a directory.
fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for place in places.filter(|place| Path::new(place).starts_with(directory)) {
        call("umount", &["--lazy", place])?;
    }
    Ok(())
}

/// Ends what still runs in a namespace of ours, and removes it.
pub fn remove_namespace(namespace: &str) -> Result<()> {
    for pid in call("ip", &["netns", "pids", namespace])?.lines() {
        if let Ok(pid) = pid.trim().parse() {
            // It may have ended since it was listed; that is what is wanted.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    call("ip", &["netns", "delete", namespace]).map(drop)
}

fn namespaces() -> Result<Vec<String>> {
    let listed = output(clean("ip").args(["netns", "list"]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// Does the name belong to a run whose process no longer exists?
#[must_use]
pub fn is_abandoned(name: &str) -> bool {
    let mut parts = name.split('-');
    let ours = parts.next() == Some(PREFIX);
    let owner = parts.next().and_then(|part| part.parse::<u32>().ok());
    ours && owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_dead_run_made_is_abandoned() {
        assert!(
            is_abandoned("pgaat-4194999-0-a"),
            "no such process can exist"
        );
        assert!(
            !is_abandoned(&format!("{}-a", run_name(0))),
            "this process is alive"
        );
        for foreign in [
            "pgaat.lock",
            "pgaat-sweep.lock",
            "pgaat",
            "pgaat-x-0",
            "other-4194999-0",
            "",
        ] {
            assert!(!is_abandoned(foreign), "{foreign} is not ours");
        }
    }
}
