//! The control group of one machine: all its processes at once, to be ended like by a power cut
//! or frozen like by a hypervisor.
//!
//! Must not touch any group but its own.

use anyhow::{Context, Result, bail, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_tests::stale::is_abandoned;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Where control groups are mounted.
const MOUNTED: &str = "/sys/fs/cgroup";

/// How long killed processes may take to be gone.
const END_MAX_MS: u64 = 20_000;

/// How often is looked whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One group, in each hierarchy that systemd uses.
#[derive(Debug)]
pub struct Group {
    /// In the version 2 hierarchy, which can kill and freeze.
    unified: PathBuf,
    /// In the named version 1 hierarchy of a hybrid host; nspawn wants to be in both.
    named: Option<PathBuf>,
}

/// The two hierarchies: the second only on a hybrid host (systemd.special, "hybrid").
fn hierarchies() -> Result<(PathBuf, Option<PathBuf>)> {
    let mounted = Path::new(MOUNTED);
    if mounted.join("cgroup.controllers").exists() {
        return Ok((mounted.to_owned(), None));
    }
    let (unified, named) = (mounted.join("unified"), mounted.join("systemd"));
    if !unified.join("cgroup.procs").exists() {
        bail!("machines need the control groups of version 2, mounted at {MOUNTED}");
    }
    Ok((unified, named.exists().then_some(named)))
}

impl Group {
    /// Makes an empty group.
    pub fn create(name: &str) -> Result<Group> {
        let (unified, named) = hierarchies()?;
        let group = Group {
            unified: unified.join(name),
            named: named.map(|named| named.join(name)),
        };
        for directory in group.directories() {
            fs::create_dir_all(directory)
                .with_context(|| format!("{} can't be made", directory.display()))?;
        }
        Ok(group)
    }

    /// The files to which a process writes its id to enter.
    pub fn entrances(&self) -> Vec<PathBuf> {
        let directories = self.directories().into_iter();
        directories.map(|path| path.join("cgroup.procs")).collect()
    }

    fn directories(&self) -> Vec<&Path> {
        let named = self.named.as_deref();
        std::iter::once(self.unified.as_path())
            .chain(named)
            .collect()
    }

    /// Ends every process in it at once, in the middle of whatever it does, and waits until
    /// none is left.
    pub fn kill(&self) -> Result<()> {
        self.order("cgroup.kill", "1")?;
        let events = self.unified.join("cgroup.events");
        let clocks = Clocks::start();
        while fs::read_to_string(&events)?.contains("populated 1") {
            ensure!(
                clocks.mono().0 < END_MAX_MS,
                "{} still has processes",
                self.unified.display()
            );
            sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Stops every process in it, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.order("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    fn order(&self, file: &str, value: &str) -> Result<()> {
        let path = self.unified.join(file);
        fs::write(&path, value).with_context(|| format!("{} can't be written", path.display()))
    }

    /// Process ids in it and below.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for directory in with_subdirectories(&self.unified) {
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        found
    }

    /// Removes it; its processes must have ended.
    pub fn remove(&self) -> Result<()> {
        self.directories().into_iter().try_for_each(remove)
    }
}

/// The directory and all below it, the deepest last.
fn with_subdirectories(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

fn remove(root: &Path) -> Result<()> {
    for directory in with_subdirectories(root).iter().rev() {
        fs::remove_dir(directory)
            .with_context(|| format!("{} can't be removed", directory.display()))?;
    }
    Ok(())
}

/// Ends the machines of runs that were killed, and removes their groups.
pub fn sweep() -> Result<()> {
    let (unified, _) = hierarchies()?;
    for entry in fs::read_dir(unified)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_abandoned(&name) {
            let group = Group::create(&name)?;
            group.kill()?;
            group.remove()?;
        }
    }
    Ok(())
}
