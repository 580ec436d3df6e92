//! A directory for a restored database, with a manifest that says whose it is.
//!
//! What the manifest doesn't vouch for is never touched: it names the directory by device and
//! inode, so that a copied or moved manifest vouches for nothing, and only the parts that are made
//! here are removed. A lock that the kernel lets go with the process tells one that is in use from
//! one that was left behind.

use crate::durable::{self, DurableError};
use pgaa_core::backup::Stanza;
use pgaa_core::restore::Target;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The manifest's name.
const MANIFEST: &str = "pgaa-restore.json";
/// The lock's name: a file of its own, because the manifest is replaced when it is written.
const LOCK: &str = "pgaa-restore.lock";
/// Directories that are made in it.
const DIRECTORIES: [&str; 3] = ["data", "tablespaces", "sock"];
/// Files that are made in it.
const FILES: [&str; 4] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", "log"];
/// The longest path of a Unix socket that the kernel takes (unix(7)), with the zero behind it.
const SOCKET_PATH_MAX: usize = 107;

/// The directory can't be used.
#[derive(Debug, Error)]
pub enum ScratchError {
    /// It holds something that isn't ours.
    #[error("{} is not empty, and was not made by pgaa-agent: name a directory that isn't there yet", .0.display())]
    NotOurs(PathBuf),
    /// The manifest doesn't fit the directory.
    #[error(
        "{} holds the manifest of another directory (moved, or copied?): nothing in it is touched; \
         remove it by hand if it isn't needed", .0.display()
    )]
    Stranger(PathBuf),
    /// Somebody is at work in it.
    #[error("{} is in use by another pgaa-agent: wait until it has ended", .0.display())]
    Busy(PathBuf),
    /// It was made for something else.
    #[error(
        "{} holds another restore ({holds}): pgaa-agent backup discard {}, or name another directory",
        directory.display(), directory.display()
    )]
    Other {
        /// Which.
        directory: PathBuf,
        /// Of what.
        holds: String,
    },
    /// Its name doesn't fit in configuration files and commands.
    #[error("{path:?} can't be used: {why}; name another directory")]
    Name {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// Files.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The file system.
    #[error("{} can't be {verb}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ScratchError {
    let path = path.to_owned();
    move |source| ScratchError::Io { verb, path, source }
}

/// What a directory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// For people: stays until it is discarded.
    Side,
    /// To become the database of a new mesh: nothing of the old one stays in it.
    Anew,
    /// For one command: left behind only when that was killed.
    Passing,
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The backup is being copied.
    Restoring,
    /// All of it is there; WAL is to be replayed.
    Recovering,
    /// It is what was asked for.
    Ready,
}

/// What was asked for, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What it is for.
    pub purpose: Purpose,
    device: u64,
    inode: u64,
    made_directory: bool,
    /// How far it has come.
    pub stage: Stage,
    /// To where.
    pub target: Target,
    /// From whose backups.
    pub stanza: Stanza,
    /// From which.
    pub backup: String,
    /// The last commit it holds, in PostgreSQL's words.
    pub recovered_to: Option<String>,
}

/// The directory, locked.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    manifest: Manifest,
    lock: File,
}

impl Scratch {
    /// Makes a directory; it must not be there yet, or be empty.
    pub fn create(
        directory: &Path,
        purpose: Purpose,
        target: Target,
        (stanza, backup): (&Stanza, &str),
    ) -> Result<Scratch, ScratchError> {
        check_name(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.exists()) {
            durable::make_directory(parent, 0o700)?;
        }
        let made = fs::DirBuilder::new().mode(0o700).create(directory);
        let made_directory = match made {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed("made", directory)(error)),
        };
        let mut entries = fs::read_dir(directory).map_err(failed("read", directory))?;
        if entries.next().is_some() {
            return Err(ScratchError::NotOurs(directory.to_owned()));
        }
        let lock = lock(directory)?;
        let seen = fs::metadata(directory).map_err(failed("read", directory))?;
        let scratch = Scratch {
            directory: directory.to_owned(),
            manifest: Manifest {
                purpose,
                device: seen.dev(),
                inode: seen.ino(),
                made_directory,
                stage: Stage::Restoring,
                target,
                stanza: stanza.clone(),
                backup: backup.to_owned(),
                recovered_to: None,
            },
            lock,
        };
        scratch.save()?;
        for part in DIRECTORIES {
            durable::make_directory(&scratch.path(part), 0o700)?;
        }
        Ok(scratch)
    }

    /// One that was made before; `None` where there is none.
    pub fn open(directory: &Path) -> Result<Option<Scratch>, ScratchError> {
        let Some(manifest) = durable::read_json::<Manifest>(&directory.join(MANIFEST))? else {
            return Ok(None);
        };
        let seen = fs::symlink_metadata(directory).map_err(failed("read", directory))?;
        if !seen.is_dir() || (seen.dev(), seen.ino()) != (manifest.device, manifest.inode) {
            return Err(ScratchError::Stranger(directory.to_owned()));
        }
        Ok(Some(Scratch {
            directory: directory.to_owned(),
            manifest,
            lock: lock(directory)?,
        }))
    }

    /// Directories below `above` that a killed command has left behind.
    #[must_use]
    pub fn left_behind(above: &Path) -> Vec<Scratch> {
        let entries = fs::read_dir(above).into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| Scratch::open(&entry.path()).ok().flatten());
        found
            .filter(|scratch| scratch.manifest.purpose == Purpose::Passing)
            .collect()
    }

    /// The lock, for a program that writes to the directory: one that outlives this process keeps
    /// others from it until it has ended.
    pub fn hold(&self) -> Result<File, ScratchError> {
        let held = self.lock.try_clone();
        held.map_err(failed("held", &self.path(LOCK)))
    }

    /// Where it is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// One of its parts.
    #[must_use]
    pub fn path(&self, part: &str) -> PathBuf {
        self.directory.join(part)
    }

    /// Notes how far it has come.
    pub fn reached(
        &mut self,
        stage: Stage,
        recovered_to: Option<String>,
    ) -> Result<(), ScratchError> {
        self.manifest.stage = stage;
        self.manifest.recovered_to = recovered_to;
        self.save()
    }

    fn save(&self) -> Result<(), ScratchError> {
        Ok(durable::write_json(&self.path(MANIFEST), &self.manifest)?)
    }

    /// Removes what was made here, and the directory with it if that was made here too and holds
    /// nothing else. Its server must have been stopped. Returns what is left.
    pub fn remove(self) -> Result<Option<String>, ScratchError> {
        for part in DIRECTORIES {
            let path = self.path(part);
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("removed", &path)(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        // The manifest goes last: what is left before it can be removed by another attempt.
        for part in FILES.iter().chain([&LOCK, &MANIFEST]) {
            durable::remove(&self.path(part))?;
        }
        if !self.manifest.made_directory {
            return Ok(None);
        }
        match fs::remove_dir(&self.directory) {
            Ok(()) => Ok(None),
            Err(error) => Ok(Some(format!("{} stays: {error}", self.directory.display()))),
        }
    }
}

fn lock(directory: &Path) -> Result<File, ScratchError> {
    let path = directory.join(LOCK);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed("opened", &path))?;
    // Let go by the kernel when the last handle is closed, by whichever process.
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ScratchError::Busy(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("locked", &path)(error)),
    }
}

/// The path is written into configuration files and into a command for a shell, and a socket lies
/// below it.
fn check_name(directory: &Path) -> Result<(), ScratchError> {
    let refuse = |why| {
        Err(ScratchError::Name {
            path: directory.to_owned(),
            why,
        })
    };
    let Some(text) = directory.to_str().filter(|_| directory.is_absolute()) else {
        return refuse("it has to be an absolute path");
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    if !text.chars().all(plain) {
        return refuse("only letters, digits and . _ - + @ may be in it");
    }
    if directory.join("sock/.s.PGSQL.5432").as_os_str().len() > SOCKET_PATH_MAX {
        return refuse("it is too long for the path of a socket");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgaa_core::ids::NodeId;
    use uuid::Uuid;

    fn make(directory: &Path) -> Result<Scratch, ScratchError> {
        let stanza = Stanza::new(NodeId(Uuid::from_u128(1)), 1);
        Scratch::create(directory, Purpose::Passing, Target::Latest, (&stanza, "x"))
    }

    #[test]
    fn only_what_was_made_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("new");
        let scratch = make(&directory).unwrap();
        fs::write(scratch.path("data").join("base"), "x").unwrap();
        fs::write(scratch.path("mine"), "x").unwrap();
        assert!(scratch.remove().unwrap().unwrap().contains("stays"));
        let left: Vec<_> = fs::read_dir(&directory).unwrap().collect();
        assert_eq!(left.len(), 1);
        // A directory with something in it is never taken.
        let refused = make(&directory).unwrap_err();
        assert!(matches!(refused, ScratchError::NotOurs(_)), "{refused}");
        fs::remove_file(directory.join("mine")).unwrap();
        // One that was there and empty stays when all else goes.
        assert_eq!(make(&directory).unwrap().remove().unwrap(), None);
        assert!(directory.exists());
    }

    #[test]
    fn one_that_is_in_use_is_told_from_one_that_was_left() {
        let root = tempfile::tempdir().unwrap();
        let scratch = make(&root.path().join("a")).unwrap();
        assert_eq!(Scratch::left_behind(root.path()).len(), 0);
        let busy = Scratch::open(scratch.directory()).unwrap_err();
        assert!(matches!(busy, ScratchError::Busy(_)), "{busy}");
        // A program that copies into it may outlive whoever began it.
        let held = scratch.hold().unwrap();
        drop(scratch);
        assert_eq!(Scratch::left_behind(root.path()).len(), 0);
        drop(held);
        let left = Scratch::left_behind(root.path());
        assert_eq!(left.len(), 1);
        left.into_iter()
            .for_each(|scratch| drop(scratch.remove().unwrap()));
        assert!(!root.path().join("a").exists());
    }

    #[test]
    fn a_manifest_vouches_for_its_own_directory_alone() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        drop(make(&a).unwrap());
        fs::create_dir(&b).unwrap();
        fs::copy(a.join(MANIFEST), b.join(MANIFEST)).unwrap();
        let refused = Scratch::open(&b).unwrap_err();
        assert!(matches!(refused, ScratchError::Stranger(_)), "{refused}");
        std::os::unix::fs::symlink(&a, root.path().join("c")).unwrap();
        assert!(Scratch::open(&root.path().join("c")).is_err());
        assert!(Scratch::open(&root.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        for bad in ["relative", "/srv/a b", "/srv/it's", "/srv/$(x)", "/srv/%p"] {
            assert!(check_name(Path::new(bad)).is_err(), "{bad} was taken");
        }
        assert!(check_name(Path::new(&format!("/{}", "a".repeat(100)))).is_err());
        check_name(Path::new("/srv/pgaa-restore/2026-11-21")).unwrap();
    }
}
