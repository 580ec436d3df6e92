//! The demo's directory: what lies where in it, and whether a directory is one.
//!
//! Must not start or stop anything.

use crate::postgres::owner::Owner;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;

/// The file that says that everything beside it may be removed.
const MARKER: &str = ".pgaa-demo";
const MARKER_TEXT: &str = "This directory was made by pgaa-agent demo.\n\"pgaa-agent demo down --dir\" removes all of it.\n";

/// The longest path of a Unix socket, bytes (`sun_path` in unix(7) without its final zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The longest path of a socket below the demo's directory.
const LONGEST_SOCKET: &str = "/n99/sock/.s.PGSQL.65535";

/// The directory of one demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
}

/// The directory of one node in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// `DIR/n1`; the agent's working directory.
    pub directory: PathBuf,
    /// `DIR/n1.toml`
    pub config: PathBuf,
    /// `DIR/log/n1-agent.log`
    pub agent_log: PathBuf,
}

impl NodePlace {
    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// The directory of the server's socket.
    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// The agent's state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The directory of the agent's sockets.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// The socket that can do everything.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run().join("agent.sock")
    }

    /// Makes the directories, for the user who runs what is in them.
    pub fn create(&self, owner: &Owner) -> Result<()> {
        make_directory(&self.directory)?;
        owner.take_over(&self.directory)?;
        for (part, mode) in [("sock", 0o755), ("run", 0o755), ("state", 0o700)] {
            let path = self.directory.join(part);
            owner.act(|| fs::DirBuilder::new().mode(mode).create(&path))??;
        }
        Ok(())
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    made.with_context(|| format!("{} can't be made", path.display()))
}

impl Place {
    /// Makes the directory: the one that was asked for, or a new one for temporary files.
    pub fn create(wanted: Option<&Path>, owner: &Owner) -> Result<Place> {
        let directory = match wanted {
            Some(path) => std::path::absolute(path)?,
            None => temporary(),
        };
        check_path(&directory)?;
        let made = match fs::DirBuilder::new().mode(0o755).create(&directory) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                return Err(error).context(format!("{} can't be made", directory.display()));
            }
        };
        // As the kernel names it: the arguments and working directories of our processes are
        // compared with paths below it.
        let place = Place {
            directory: fs::canonicalize(&directory)?,
        };
        check_path(&place.directory)?;
        let prepared = place.prepare(owner);
        if prepared.is_err() && made {
            // The first error is the one that counts.
            let _ = fs::remove_dir_all(&place.directory);
        }
        prepared.map(|()| place)
    }

    fn prepare(&self, owner: &Owner) -> Result<()> {
        let shown = self.directory.display();
        let mut entries = fs::read_dir(&self.directory)
            .with_context(|| format!("{shown} can't be used for the demo"))?;
        if let Some(entry) = entries.next() {
            let name = entry?.file_name();
            let remedy = if self.directory.join(MARKER).exists() {
                format!("pgaa-agent demo down --dir {shown} removes the demo in it")
            } else {
                "choose a new one with --dir".to_owned()
            };
            bail!(
                "{shown} is not empty ({} is in it): {remedy}",
                name.to_string_lossy()
            );
        }
        let reached = owner.act(|| fs::read_dir(&self.directory).map(drop))?;
        ensure!(
            reached.is_ok(),
            "the user {} can't reach {shown}: a directory above it is closed to others; choose \
             another with --dir",
            owner.name
        );
        fs::write(self.directory.join(MARKER), MARKER_TEXT)?;
        make_directory(&self.logs())
    }

    /// The demo in a directory that was made before.
    pub fn open(directory: &Path) -> Result<Place> {
        let directory = fs::canonicalize(directory)
            .with_context(|| format!("there is no demo in {}", directory.display()))?;
        ensure!(
            directory.join(MARKER).is_file(),
            "{} is no directory of the demo: the file {MARKER} isn't in it",
            directory.display()
        );
        Ok(Place { directory })
    }

    /// Keeps other calls of `demo` out until the lock is dropped.
    pub fn lock(&self) -> Result<Flock<File>> {
        let file = OpenOptions::new()
            .read(true)
            .open(self.directory.join(MARKER))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| error)
            .with_context(|| {
                format!(
                    "another call of pgaa-agent demo works on {}",
                    self.directory.display()
                )
            })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file with everything the demo knows of itself.
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.directory.join("demo.json")
    }

    /// The join token.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Where the agent's program is copied to, when the servers' account can't reach it.
    #[must_use]
    pub fn program_copy(&self) -> PathBuf {
        self.directory.join("pgaa-agent")
    }

    fn logs(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// The place of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> NodePlace {
        NodePlace {
            directory: self.directory.join(name),
            config: self.directory.join(format!("{name}.toml")),
            agent_log: self.logs().join(format!("{name}-agent.log")),
        }
    }

    /// Writes a file that only `owner` reads. The directory is ours, so that nobody can have
    /// put a link in the file's place.
    pub fn write_secret(&self, path: &Path, text: &str, owner: &Owner) -> Result<()> {
        use std::io::Write;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        owner.take_over(path)?;
        Ok(())
    }

    /// Removes everything, side by side: a disk takes its time for each of a thousand files.
    pub async fn remove(&self) -> Result<()> {
        let shown = self.directory.display();
        let mut steps = JoinSet::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                steps.spawn_blocking(move || fs::remove_dir_all(path));
            }
        }
        let removed: std::io::Result<()> = steps.join_all().await.into_iter().collect();
        removed
            .and_then(|()| fs::remove_dir_all(&self.directory))
            .with_context(|| format!("{shown} can't be removed"))
    }
}

/// A new directory's name. `/var/tmp` lies on a disk where `/tmp` may lie in memory.
fn temporary() -> PathBuf {
    let parent =
        std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    parent.join(format!(
        "pgaa-demo-{:06x}",
        rand::random_range(0..0x100_0000)
    ))
}

/// Paths that PostgreSQL's programs and the kernel take as they are.
fn check_path(directory: &Path) -> Result<()> {
    let Some(text) = directory.to_str() else {
        bail!(
            "{} is not UTF-8: choose another directory with --dir",
            directory.display()
        );
    };
    // pg_ctl hands paths to a shell in double quotes.
    if let Some(bad) = text
        .chars()
        .find(|c| c.is_control() || "\"'`$\\".contains(*c))
    {
        bail!("{text:?} contains {bad:?}: choose another directory with --dir");
    }
    let longest = text.len() + LONGEST_SOCKET.len();
    ensure!(
        longest <= SOCKET_PATH_BYTES_MAX,
        "{text} is too long: the sockets in it would have paths of {longest} bytes, and the \
         kernel takes {SOCKET_PATH_BYTES_MAX}; choose a directory of at most {} bytes with --dir",
        SOCKET_PATH_BYTES_MAX - LONGEST_SOCKET.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_path_is_short_and_plain() {
        assert!(check_path(Path::new("/var/tmp/pgaa-demo-00ff00")).is_ok());
        assert!(check_path(Path::new("/srv/with space/ä")).is_ok());
        assert!(check_path(Path::new(&format!("/{}", "x".repeat(82)))).is_ok());
        let error = check_path(Path::new(&format!("/{}", "x".repeat(83)))).unwrap_err();
        assert!(
            error.to_string().contains("at most 83 bytes with --dir"),
            "{error}"
        );
        for bad in ["/a\"b", "/a'b", "/a$b", "/a`b", "/a\\b", "/a\nb"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_longest_socket_is_the_longest() {
        let place = Place {
            directory: PathBuf::from("/d"),
        };
        let node = place.node("n99");
        let longest = 2 + LONGEST_SOCKET.len();
        assert_eq!(
            node.sockets().join(".s.PGSQL.65535").as_os_str().len(),
            longest
        );
        assert!(node.agent_socket().as_os_str().len() <= longest);
    }

    #[tokio::test]
    async fn only_a_marked_directory_is_a_demo() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let directory = parent.path().join("x");
        let owner = Owner::of(&directory).unwrap();
        assert!(Place::open(&directory).is_err());
        let place = Place::create(Some(&directory), &owner).unwrap();
        assert_eq!(
            Place::open(&directory).unwrap().directory(),
            fs::canonicalize(&directory).unwrap()
        );
        let held = place.lock().unwrap();
        assert!(place.lock().is_err(), "the lock was given twice");
        drop(held);
        let error = Place::create(Some(&directory), &owner)
            .unwrap_err()
            .to_string();
        assert!(error.contains("demo down --dir"), "{error}");
        place.remove().await.unwrap();
        assert!(!directory.exists());
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("precious"), "").unwrap();
        let error = Place::create(Some(&directory), &owner)
            .unwrap_err()
            .to_string();
        assert!(error.contains("precious"), "{error}");
        let error = Place::open(&directory).unwrap_err().to_string();
        assert!(error.contains(".pgaa-demo isn't in it"), "{error}");
        assert!(directory.join("precious").exists());
    }
}
