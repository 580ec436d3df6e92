//! Acting as the operating-system user who owns the PostgreSQL cluster.
//!
//! When the agent runs as root, nothing below a directory of that user is read, written or run
//! as root: the user could have put a symbolic link there.

use crate::clock::Clocks;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Gid, Uid, User, geteuid, setfsgid, setfsuid};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use thiserror::Error;

/// How often a child is looked at.
const POLL: Duration = Duration::from_millis(10);
/// How much of a child's output is kept for people, from its end.
const TAIL_BYTES: usize = 2_000;

/// The user can't be acted for.
#[derive(Debug, Error)]
pub enum OwnerError {
    /// Files of another user, and we are not root.
    #[error(
        "{path} belongs to the user {owner}, and this runs as {current}: run it as {owner} or root"
    )]
    NotOurs {
        /// The data directory.
        path: String,
        /// Who owns it.
        owner: String,
        /// Who we are.
        current: String,
    },
    /// PostgreSQL never runs as root.
    #[error(
        "{path} belongs to root, and PostgreSQL refuses to run as root: give it to another user"
    )]
    Root {
        /// The data directory.
        path: String,
    },
    /// There is no such user.
    #[error("there is no user {user}: install the PostgreSQL packages, or create it")]
    NoUser {
        /// Name or number.
        user: String,
    },
    /// The system didn't let us become that user.
    #[error("cannot act as the user {user}")]
    Become {
        /// The name.
        user: String,
        /// Why not.
        source: io::Error,
    },
}

/// A program failed.
#[derive(Debug, Error)]
pub enum ChildError {
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// Which one.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It said no.
    #[error("{program} failed ({status}): {output}")]
    Failed {
        /// Which one.
        program: String,
        /// Its exit code or signal, in words.
        status: String,
        /// Its exit code; `None` after a signal.
        code: Option<i32>,
        /// The end of what it printed.
        output: String,
    },
    /// It took too long and was killed.
    #[error("{program} was not done after {seconds} s: {output}")]
    TimedOut {
        /// Which one.
        program: String,
        /// How long it had.
        seconds: u64,
        /// The end of what it printed.
        output: String,
    },
}

/// The user who owns the cluster's files and runs its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The name.
    pub name: String,
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// The owner of `data_dir`; where that isn't there yet, `postgres` when we are root, else
    /// ourselves.
    pub fn of(data_dir: &Path) -> Result<Owner, OwnerError> {
        let current = geteuid();
        let uid = match fs::metadata(data_dir) {
            Ok(metadata) => Some(Uid::from_raw(metadata.uid())),
            Err(_) if current.is_root() => None,
            Err(_) => Some(current),
        };
        let owner = match uid {
            Some(uid) => Owner::look_up(User::from_uid(uid), &uid.to_string())?,
            None => Owner::look_up(User::from_name("postgres"), "postgres")?,
        };
        let path = data_dir.display().to_string();
        if owner.uid.is_root() {
            return Err(OwnerError::Root { path });
        }
        if !current.is_root() && owner.uid != current {
            let current = Owner::look_up(User::from_uid(current), &current.to_string())?.name;
            return Err(OwnerError::NotOurs {
                path,
                owner: owner.name,
                current,
            });
        }
        Ok(owner)
    }

    fn look_up(found: nix::Result<Option<User>>, user: &str) -> Result<Owner, OwnerError> {
        match found {
            Ok(Some(found)) => Ok(Owner {
                name: found.name,
                uid: found.uid,
                gid: found.gid,
            }),
            Ok(None) | Err(_) => Err(OwnerError::NoUser {
                user: user.to_owned(),
            }),
        }
    }

    fn is_us(&self) -> bool {
        self.uid == geteuid()
    }

    /// Does `work` with this user's rights to files. It runs on a thread of its own, because the
    /// identity for the file system belongs to a thread (setfsuid(2)); leaving uid 0 that way
    /// also takes away the capabilities that overrule permissions.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, OwnerError> {
        if self.is_us() {
            return Ok(work());
        }
        let failed = |source| OwnerError::Become {
            user: self.name.clone(),
            source,
        };
        let done = thread::scope(|scope| {
            let acting = thread::Builder::new().spawn_scoped(scope, || {
                setfsgid(self.gid);
                setfsuid(self.uid);
                // They report nothing but the identity before: ask again to see it took.
                let took = setfsgid(self.gid) == self.gid && setfsuid(self.uid) == self.uid;
                took.then(work)
            });
            acting.map(|thread| thread.join())
        });
        match done.map_err(failed)? {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(failed(io::Error::from(io::ErrorKind::PermissionDenied))),
            Err(_) => Err(failed(io::Error::other("the work broke off"))),
        }
    }

    /// Gives a directory that we, as root, have just made to this user.
    pub fn take_over(&self, directory: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(directory, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }

    /// A command that runs as this user, with the user's supplementary groups (Debian's key of
    /// the placeholder certificate is readable by a group).
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = if self.is_us() {
            Command::new(program)
        } else {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={}", self.uid))
                .arg(format!("--regid={}", self.gid))
                .args(["--init-groups", "--"])
                .arg(program);
            command
        };
        // Neither may the caller's PG* variables lead elsewhere, nor its directory be unreadable.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.current_dir("/");
        command
    }
}

/// Runs a command to its end and returns what it printed. Output goes to memory and not to a
/// pipe: a server that the child leaves behind would keep a pipe open for ever.
pub fn run(command: &mut Command, time_max: Duration) -> Result<String, ChildError> {
    let program = describe(command);
    let start_failed = |source| ChildError::Start {
        program: program.clone(),
        source,
    };
    let mut printed = capture().map_err(start_failed)?;
    let stdout = printed.try_clone().map_err(start_failed)?;
    let stderr = printed.try_clone().map_err(start_failed)?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().map_err(start_failed)?;
    let clocks = Clocks::start();
    let started = clocks.mono();
    loop {
        if let Some(status) = child.try_wait().map_err(start_failed)? {
            let output = read_all(&mut printed);
            if status.success() {
                return Ok(output);
            }
            let (code, status) = (status.code(), status.to_string());
            return Err(ChildError::Failed {
                program,
                status,
                code,
                output: tail(&output),
            });
        }
        if clocks.mono().since(started) > time_max {
            // Whether it still lives is of no interest; it is ours, and reaped.
            let _ = child.kill();
            let _ = child.wait();
            let output = tail(&read_all(&mut printed));
            return Err(ChildError::TimedOut {
                program,
                seconds: time_max.as_secs(),
                output,
            });
        }
        thread::sleep(POLL);
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn capture() -> io::Result<File> {
    let memory = memfd_create("output", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?;
    Ok(File::from(memory))
}

fn read_all(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(its output can't be read: {error})"),
    }
}

/// The end of a text, for a message.
#[must_use]
pub(super) fn tail(text: &str) -> String {
    let text = text.trim();
    let mut start = text.len().saturating_sub(TAIL_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_reports_what_it_printed_and_is_killed_when_late() {
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        };
        assert_eq!(
            run(&mut shell("echo a; echo b >&2"), Duration::from_secs(9)).unwrap(),
            "a\nb\n"
        );
        let error = run(&mut shell("echo why; exit 3"), Duration::from_secs(9)).unwrap_err();
        assert!(
            error.to_string().ends_with("(exit status: 3): why"),
            "{error}"
        );
        let error = run(
            &mut shell("echo slow; exec sleep 60"),
            Duration::from_millis(200),
        )
        .unwrap_err();
        assert!(matches!(error, ChildError::TimedOut { .. }), "{error}");
        // A child that leaves somebody behind who holds its output doesn't hold us.
        assert_eq!(
            run(&mut shell("sleep 3 & echo gone"), Duration::from_secs(9)).unwrap(),
            "gone\n"
        );
        let error = run(&mut Command::new("/nonexistent"), Duration::from_secs(9)).unwrap_err();
        assert!(matches!(error, ChildError::Start { .. }), "{error}");
    }

    #[test]
    fn the_tail_respects_characters() {
        assert_eq!(tail(" x\n"), "x");
        assert!(tail(&"ä".repeat(5_000)).len() <= TAIL_BYTES);
    }
}
