//! Which pgBackRest this is, and what an old one must not be trusted with.
//!
//! Not relied on in any version: `archive-push-queue-max`, which before 2.59 isn't enforced when
//! archiving fails. What may wait for the repository is bounded by the agent itself.

use crate::config::Repository;
use std::fmt;
use thiserror::Error;

/// "2.45" or "2.59.1".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// The first that knows PostgreSQL 15 and notes on backups.
const OLDEST: Version = Version::new(2, 41, 0);

/// The first with SFTP.
const SFTP: Version = Version::new(2, 46, 0);

/// Why a version won't do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unfit {
    /// It doesn't know this PostgreSQL.
    #[error("pgBackRest {0} doesn't know PostgreSQL 15: install {OLDEST} or later")]
    TooOld(Version),
    /// It can't speak to the repository.
    #[error("pgBackRest {0} can't use SFTP: install {SFTP} or later, or use another repository")]
    NoSftp(Version),
}

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version {
            major,
            minor,
            patch,
        }
    }

    /// Reads what `pgbackrest version` prints: "pgBackRest 2.45".
    #[must_use]
    pub fn read(text: &str) -> Option<Version> {
        let digits = text.trim().strip_prefix("pgBackRest ")?;
        // Between releases it is "2.60dev".
        let digits = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let mut parts = digits.split('.').map(|part| part.parse().ok());
        let version = Version {
            major: parts.next()??,
            minor: parts.next()??,
            patch: parts.next().unwrap_or(Some(0))?,
        };
        parts.next().is_none().then_some(version)
    }

    /// Will it do for this repository?
    pub fn fits(self, repository: Option<&Repository>) -> Result<(), Unfit> {
        if self < OLDEST {
            return Err(Unfit::TooOld(self));
        }
        match repository {
            Some(Repository::Sftp { .. }) if self < SFTP => Err(Unfit::NoSftp(self)),
            Some(
                Repository::Posix
                | Repository::S3 { .. }
                | Repository::Azure { .. }
                | Repository::Gcs { .. }
                | Repository::Sftp { .. },
            )
            | None => Ok(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        match self.patch {
            0 => Ok(()),
            patch => write!(f, ".{patch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_compared_and_judged() {
        let read = |text| Version::read(text).unwrap();
        assert!(read("pgBackRest 2.9") < read("pgBackRest 2.45\n"));
        assert!(read("pgBackRest 2.59") < read("pgBackRest 2.59.1"));
        assert_eq!(read("pgBackRest 2.60dev").to_string(), "2.60");
        for odd in [
            "",
            "pgBackRest",
            "pgBackRest x",
            "2.45",
            "pgBackRest 2.45.1.1",
        ] {
            assert_eq!(Version::read(odd), None, "{odd} was taken");
        }
        let sftp = Repository::Sftp {
            host: "h".to_owned(),
            user: "u".to_owned(),
            known_hosts: None,
        };
        let debian = read("pgBackRest 2.45");
        assert_eq!(debian.fits(Some(&Repository::Posix)), Ok(()));
        assert_eq!(debian.fits(Some(&sftp)), Err(Unfit::NoSftp(debian)));
        assert_eq!(read("pgBackRest 2.46").fits(Some(&sftp)), Ok(()));
        let old = read("pgBackRest 2.40");
        assert_eq!(old.fits(None), Err(Unfit::TooOld(old)));
    }
}
