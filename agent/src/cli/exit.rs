//! How a command ends: the exit codes, and failures that know theirs.

use crate::config::ConfigError;
use crate::control::client::ClientError;
use pgaa_core::status::Health;
use std::fmt;
use std::process::ExitCode;

/// The exit codes; from 64 on those of sysexits(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// It works, and something needs a look; or an act was refused.
    Degraded = 1,
    /// Something needs somebody now.
    Critical = 2,
    /// The agent can't be reached.
    Unreachable = 3,
    /// It took too long.
    TimedOut = 4,
    /// Wrong arguments.
    Usage = 64,
    /// Not allowed.
    Permission = 77,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

impl From<Health> for Exit {
    fn from(health: Health) -> Exit {
        match health {
            Health::Ok => Exit::Ok,
            Health::Degraded => Exit::Degraded,
            Health::Critical => Exit::Critical,
        }
    }
}

/// A command that could not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// The code it ends with.
    pub exit: Exit,
    /// What is said on standard error, with the next step; nothing when empty.
    pub text: String,
}

impl Failure {
    /// Makes one.
    #[must_use]
    pub fn new(exit: Exit, text: impl Into<String>) -> Failure {
        Failure {
            exit,
            text: text.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let exit = match &error {
            ClientError::NotRunning { .. } | ClientError::Broken { .. } => Exit::Unreachable,
            ClientError::Permission { .. } => Exit::Permission,
            ClientError::TimedOut { .. } => Exit::TimedOut,
            ClientError::Answered { .. } => Exit::Degraded,
        };
        Failure::new(exit, error.to_string())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Exit::Configuration, error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        let mut text = format!("{error:#}");
        // By its words: a program that was called says it as well.
        if text.contains("No space left on device") {
            text.push_str("; free some space or enlarge that disk: df -h");
        }
        Failure::new(Exit::Degraded, text)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        // `status | head` closes the pipe: that is no failure of ours.
        match error.kind() == std::io::ErrorKind::BrokenPipe {
            true => Failure::new(Exit::Ok, ""),
            false => Failure::new(Exit::Degraded, error.to_string()),
        }
    }
}
