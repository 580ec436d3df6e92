//! What can go wrong with pgBackRest, by its own codes (its `error.yaml`), each with what helps.

use super::version::Unfit;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// A command of pgBackRest failed.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The program can't be run.
    #[error("{} can't be run: apt install pgbackrest, or set backup.pgbackrest", program.display())]
    Program {
        /// Which program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is too old, or lacks what the repository needs.
    #[error("this pgBackRest won't do")]
    Unfit(#[from] Unfit),
    /// It did not end.
    #[error("pgbackrest {command} did not end within {} s", within.as_secs())]
    Slow {
        /// Which command.
        command: String,
        /// How long it was given.
        within: Duration,
    },
    /// It ran, and said no.
    #[error("pgbackrest {command}: {text} [{code}]; {}", cause.remedy())]
    Refused {
        /// Which command.
        command: String,
        /// Its code.
        code: i32,
        /// What that means.
        cause: Cause,
        /// Its words, without secrets: it hides them itself.
        text: String,
    },
    /// It was ended from outside.
    #[error("pgbackrest {command} was ended by signal {signal}")]
    Ended {
        /// Which command.
        command: String,
        /// By which signal.
        signal: i32,
    },
    /// Its answer isn't what its documentation says.
    #[error("pgBackRest's answer makes no sense: {0}; upgrade pgaa-agent")]
    Nonsense(String),
}

impl BackupError {
    /// What it means, where pgBackRest has said.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self {
            BackupError::Refused { cause, .. } => Some(*cause),
            BackupError::Program { .. }
            | BackupError::Unfit(_)
            | BackupError::Slow { .. }
            | BackupError::Ended { .. }
            | BackupError::Nonsense(_) => None,
        }
    }
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Another pgBackRest is at work on this stanza here.
    Busy,
    /// The repository can't be reached.
    Unreachable,
    /// Its certificate isn't one that we trust.
    Certificate,
    /// It refuses us.
    Denied,
    /// It takes nothing: full, read-only, or not ours to write to.
    Unwritable,
    /// The configuration is wrong.
    Configuration,
    /// The repository is encrypted with another pass phrase, or not at all.
    Cipher,
    /// What should be in the repository isn't.
    Missing,
    /// The server can't be asked, or isn't set up.
    Server,
    /// WAL doesn't arrive.
    Archiving,
    /// What lies there is another cluster's, or differs.
    Mismatch,
    /// Something else.
    Other,
}

impl Cause {
    /// What a code means, with the words beside it: codes are coarse.
    #[must_use]
    pub fn of(code: i32, text: &str) -> Cause {
        let says = |word: &str| text.contains(word);
        if says("certificate") {
            return Cause::Certificate;
        }
        if says("[28] No space left") || says("[30] Read-only") || says("[122] Disk quota") {
            return Cause::Unwritable;
        }
        if says("[13] Permission denied") || says("[1] Operation not permitted") {
            return Cause::Denied;
        }
        if says("HTTP request failed with 403") || says("HTTP request failed with 401") {
            return Cause::Denied;
        }
        if says("HostConnectError")
            || says("unable to get address")
            || says("HTTP request failed with 5")
        {
            return Cause::Unreachable;
        }
        // Now and then what another phrase decrypts looks whole, and is noise.
        if says("CryptoError") || says("cipher") || says("FormatError") {
            return Cause::Cipher;
        }
        match code {
            50 => Cause::Busy,
            39 | 49 | 101 => Cause::Unreachable,
            105 => Cause::Denied,
            47 | 52 | 54 | 64 | 74 => Cause::Unwritable,
            27 | 30 | 31 | 32 | 33 | 34 | 35 | 36 | 37 | 43 | 48 => Cause::Configuration,
            95 => Cause::Cipher,
            53 | 55 | 73 | 103 => Cause::Missing,
            56 | 57 | 59 | 80 | 89 => Cause::Server,
            68 | 82 | 87 => Cause::Archiving,
            28 | 44 | 45 | 51 | 58 => Cause::Mismatch,
            _ => Cause::Other,
        }
    }

    /// What helps.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Cause::Busy => "it goes on when that has ended: pgaa-agent backup status",
            Cause::Unreachable => {
                "see that the repository answers (backup.endpoint, backup.port, backup.ca_file); it is \
                 tried again by itself"
            }
            Cause::Certificate => {
                "see that backup.ca_file is who has signed it, and that backup.endpoint is one of its DNS \
                 names (pgBackRest knows no addresses there)"
            }
            Cause::Denied => {
                "see that backup.key_id and backup.key_file are right, and that postgres may write to \
                 backup.path; it is tried again by itself"
            }
            Cause::Unwritable => {
                "make room in the repository, and see that it can be written to (for a directory: \
                 ReadWritePaths= of pgaa-agent.service); it is tried again by itself"
            }
            Cause::Configuration => "see [backup]: pgaa-agent config show --origin",
            Cause::Cipher => {
                "see that backup.cipher_file is the one that the repository was made with (if it is, what \
                 lies there is damaged)"
            }
            Cause::Missing => "see that backup.path is right and that the repository is there",
            Cause::Server => "see that PostgreSQL answers: pgaa-agent status",
            Cause::Archiving => "see what archiving says: pgaa-agent backup status",
            Cause::Mismatch => {
                "another cluster has written there; set backup.path to a place that is this cluster's \
                 alone"
            }
            Cause::Other => "journalctl -u pgaa-agent has all of it",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_finer_than_codes() {
        for (code, text, cause) in [
            (
                103,
                "repo1: [FileOpenError] unable to open: [13] Permission denied",
                Cause::Denied,
            ),
            (
                41,
                "unable to open '/r/x' for write: [30] Read-only file system",
                Cause::Unwritable,
            ),
            (
                64,
                "unable to write '/r/x': [28] No space left on device",
                Cause::Unwritable,
            ),
            (
                39,
                "HTTP request failed with 403 (Forbidden)",
                Cause::Denied,
            ),
            (
                95,
                "CryptoError: unable to verify certificate presented by 'x'",
                Cause::Certificate,
            ),
            (103, "unable to find a valid repository", Cause::Missing),
            (
                103,
                "unable to find a valid repository: repo1: [FormatError] unable to load info file",
                Cause::Cipher,
            ),
            (50, "unable to acquire lock on file", Cause::Busy),
            (49, "unable to get address for 'x'", Cause::Unreachable),
            (
                68,
                "archive_command '/bin/true' must contain pgbackrest",
                Cause::Archiving,
            ),
            (25, "assertion", Cause::Other),
        ] {
            assert_eq!(Cause::of(code, text), cause, "{code} {text}");
        }
    }
}
