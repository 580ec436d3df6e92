//! What an image must not hold, because each machine made from it would have the same: identity,
//! machine-id, a PostgreSQL cluster.
//!
//! Never removes a database: it is named, with the command.

use crate::config::clusters;
use crate::durable;
use anyhow::{Context, bail};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// The file system of a machine that is about to be copied.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where it starts: "/".
    pub root: PathBuf,
    /// `paths.state_dir`
    pub state_dir: PathBuf,
    /// `paths.run_dir`
    pub run_dir: PathBuf,
}

/// Something that all copies would have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    /// Identity, certificates, keys, roster.
    Identity(PathBuf),
    /// systemd's id of the machine.
    MachineId(PathBuf),
    /// A cluster: its system identifier.
    Cluster {
        /// "15"
        version: String,
        /// Where its settings lie; the directory's name is the cluster's.
        config_dir: PathBuf,
    },
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Identity(path) => write!(
                f,
                "{} holds a node's identity, and all copies would be the same node: pgaa-agent \
                 image seal",
                path.display()
            ),
            Leftover::MachineId(path) => write!(
                f,
                "{} is set, and all copies would be the same machine: pgaa-agent image seal",
                path.display()
            ),
            Leftover::Cluster {
                version,
                config_dir,
            } => {
                let name = config_dir.file_name().unwrap_or_default().to_string_lossy();
                write!(
                    f,
                    "PostgreSQL {version}/{name} is in the image, and all copies would have its \
                     system identifier, which the mesh refuses; if nothing in it is needed: \
                     pg_dropcluster --stop {version} {name}"
                )
            }
        }
    }
}

impl Image {
    /// Everything that copies must not have in common.
    pub fn check(&self) -> anyhow::Result<Vec<Leftover>> {
        let mut found = Vec::new();
        if !self.state()?.is_empty() {
            found.push(Leftover::Identity(self.state_dir.clone()));
        }
        let machine_id = self.machine_id();
        let id = durable::read(&machine_id)?.unwrap_or_default();
        // "uninitialized" asks for the first boot's actions as well (machine-id(5)).
        if !matches!(id.trim_ascii(), b"" | b"uninitialized") {
            found.push(Leftover::MachineId(machine_id));
        }
        for cluster in clusters(&self.root) {
            found.push(Leftover::Cluster {
                version: cluster.version,
                config_dir: cluster.config_dir,
            });
        }
        Ok(found)
    }

    /// Removes identity and machine-id; says what it did. Refuses on a machine whose agent runs:
    /// that one is a node, and would be none afterwards.
    pub fn seal(&self) -> anyhow::Result<Vec<String>> {
        let socket = self.run_dir.join("agent.sock");
        if UnixStream::connect(&socket).is_ok() {
            bail!(
                "an agent runs here, so this machine is a node of a mesh; to make an image of it \
                 all the same: systemctl stop pgaa-agent"
            );
        }
        let mut done = Vec::new();
        for path in self.state()? {
            let removed = match path.is_dir() && !path.is_symlink() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.with_context(|| format!("{} can't be removed", path.display()))?;
            done.push(format!("removed {}", path.display()));
        }
        let machine_id = self.machine_id();
        // Empty and not missing: systemd fills an empty file also where /etc is read-only.
        if machine_id.exists() && fs::metadata(&machine_id)?.len() > 0 {
            fs::write(&machine_id, b"")
                .with_context(|| format!("{} can't be emptied", machine_id.display()))?;
            done.push(format!("emptied {}", machine_id.display()));
        }
        Ok(done)
    }

    fn machine_id(&self) -> PathBuf {
        self.root.join("etc/machine-id")
    }

    /// What lies in the state directory.
    fn state(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.state_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("{} can't be read", self.state_dir.display()));
            }
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry?.path());
        }
        paths.sort();
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn image() -> (tempfile::TempDir, Image) {
        let root = tempfile::tempdir().unwrap();
        let image = Image {
            root: root.path().to_owned(),
            state_dir: root.path().join("state"),
            run_dir: root.path().join("run"),
        };
        for part in ["state/tls", "run", "etc/postgresql/15/main"] {
            fs::create_dir_all(root.path().join(part)).unwrap();
        }
        fs::write(root.path().join("etc/machine-id"), "0123\n").unwrap();
        fs::write(root.path().join("state/node.json"), "{}").unwrap();
        (root, image)
    }

    #[test]
    fn sealing_removes_identity_and_leaves_databases() {
        let (root, image) = image();
        let conf = root.path().join("etc/postgresql/15/main/postgresql.conf");
        fs::write(&conf, "port = 5432\n").unwrap();
        assert_eq!(image.check().unwrap().len(), 3);
        assert_eq!(image.seal().unwrap().len(), 3, "node.json, tls, machine-id");
        let left = image.check().unwrap();
        assert!(
            matches!(left.as_slice(), [Leftover::Cluster { .. }]),
            "{left:?}"
        );
        assert!(
            left[0]
                .to_string()
                .ends_with("pg_dropcluster --stop 15 main")
        );
        assert!(conf.exists());
        assert_eq!(image.seal().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_live_node_is_not_sealed() {
        let (root, image) = image();
        let _agent = UnixListener::bind(root.path().join("run/agent.sock")).unwrap();
        let refused = image.seal().unwrap_err().to_string();
        assert!(refused.ends_with("systemctl stop pgaa-agent"), "{refused}");
        assert!(root.path().join("state/node.json").exists());
    }

    #[test]
    fn an_image_that_was_never_booted_is_sealed() {
        let root = tempfile::tempdir().unwrap();
        let image = Image {
            root: root.path().to_owned(),
            state_dir: root.path().join("state"),
            run_dir: root.path().join("run"),
        };
        assert_eq!(image.check().unwrap(), []);
    }
}
