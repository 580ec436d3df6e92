//! Binds a Unix socket so that nobody ever sees it with the wrong mode, and a live agent's socket
//! is never taken away.

use super::READERS_GROUP;
use log::warn;
use nix::unistd::{Gid, Group};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::net::UnixListener;

/// Who a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything, for root and the agent's own user.
    Full,
    /// Reading, for the group [`READERS_GROUP`].
    Read,
}

/// A control socket could not be set up.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another agent serves it.
    #[error(
        "another agent answers at {}; stop it first (systemctl stop pgaa-agent), or give this one \
         a paths.run_dir of its own", path.display()
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else lies there.
    #[error("{} is no socket; move it away", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {verb} the socket {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { verb, path, source }
}

/// Binds `path`, in the place of a socket that a dead agent has left there. The socket is made
/// under another name and renamed, so that it is there with its final mode or not at all.
pub(super) fn bind(path: &Path, access: Access) -> Result<UnixListener, SocketError> {
    refuse_if_alive(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("clear", &temporary)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(failed("bind", &temporary))?;
    let mode = match access {
        Access::Full => 0o600,
        Access::Read => give_to_readers(&temporary),
    };
    fs::set_permissions(&temporary, Permissions::from_mode(mode))
        .map_err(failed("protect", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("place", path))?;
    Ok(listener)
}

fn refuse_if_alive(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("try", path)(error)),
        Ok(_) => Err(SocketError::Taken {
            path: path.to_owned(),
        }),
    }
}

/// Hands the socket to the group of readers, and returns the mode it shall have: without the
/// group, or the right to give files to it, only the owner reads.
fn give_to_readers(path: &Path) -> u32 {
    let group = Group::from_name(READERS_GROUP).ok().flatten();
    let Some(Group { gid, .. }) = group else {
        return 0o600;
    };
    if gid == Gid::effective() {
        return 0o660;
    }
    match chown(path, None, Some(gid.as_raw())) {
        Ok(()) => 0o660,
        Err(error) => {
            warn!(
                "{} can't be given to group {READERS_GROUP}, so only its owner can read the \
                 status: {error}; add the agent's user to the group",
                path.display()
            );
            0o600
        }
    }
}
