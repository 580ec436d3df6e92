//! Runs a program that tells of the clock. It can be missing, slow, broken or endless.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Each waits up to a second for its daemon and tries again; a hanging one is left.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// What they say has some hundred bytes and as many for each server; more is something else.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;

/// A source of time could not be asked.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The program can't be run.
    #[error("{program} can't be run")]
    Run {
        /// Which.
        program: String,
        /// Why.
        #[source]
        why: io::Error,
    },
    /// It took too long.
    #[error("{program} gave no answer within {} s", ASK_TIMEOUT.as_secs())]
    TimedOut {
        /// Which.
        program: String,
    },
    /// It ran, and its daemon didn't answer it.
    #[error("{program} says: {said:?}; does its daemon run?")]
    Refused {
        /// Which.
        program: String,
        /// What it said.
        said: String,
    },
    /// The output isn't what its manual describes.
    #[error("the report on the clock makes no sense: {0}")]
    Nonsense(String),
}

/// Runs it, and returns what it said.
pub async fn run(program: &Path, arguments: &[&str]) -> Result<String, ProgramError> {
    let name = || program.display().to_string();
    let failed = |why| ProgramError::Run {
        program: name(),
        why,
    };
    let (success, text) = timeout(ASK_TIMEOUT, output(program, arguments))
        .await
        .map_err(|_| ProgramError::TimedOut { program: name() })?
        .map_err(failed)?;
    if success {
        Ok(text)
    } else {
        Err(ProgramError::Refused {
            program: name(),
            said: text,
        })
    }
}

async fn output(program: &Path, arguments: &[&str]) -> io::Result<(bool, String)> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(OUTPUT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .await?;
    }
    let status = child.wait().await?;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    Ok((status.success(), text))
}
