//! Runs one command of pgBackRest to its end and reads what it says.
//!
//! Its output comes from a program that can be missing, old, slow or stuck: it is bounded, timed,
//! and never trusted to be complete.

use super::error::{BackupError, Cause};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// A description of ten thousand backups stays below it.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// What is kept of an error's words.
const WORDS_BYTES_MAX: usize = 600;

/// A line of its log is a path and some numbers.
const LINE_BYTES_MAX: u64 = 16_384;

/// What it gets of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// As much as others.
    Usual,
    /// What others leave: copying a database must not be felt by those who use it.
    Low,
}

/// What `nice` and `ionice` are told for [`Priority::Low`]: far behind, but not never. With the
/// idle class a busy machine would never finish a backup.
const LOW: [&str; 7] = ["-n", "10", "ionice", "-c", "2", "-n", "7"];

/// One command.
#[derive(Debug)]
pub struct Invocation<'a> {
    /// pgBackRest.
    pub program: &'a Path,
    /// Its configuration file.
    pub config: &'a Path,
    /// The command and its arguments.
    pub arguments: &'a [&'a str],
    /// Options. No secrets: everybody on the machine can read them.
    pub options: &'a [String],
    /// What it gets of the machine.
    pub priority: Priority,
    /// What it keeps open, as its standard input, which it doesn't read.
    pub held: Option<File>,
}

impl Invocation<'_> {
    fn name(&self) -> String {
        self.arguments
            .first()
            .copied()
            .unwrap_or_default()
            .to_owned()
    }

    fn command(&mut self) -> Command {
        let held = self.held.take().map_or_else(Stdio::null, Stdio::from);
        let mut command = match self.priority {
            Priority::Usual => Command::new(self.program),
            Priority::Low => {
                let mut command = Command::new("nice");
                command.args(LOW).arg(self.program);
                command
            }
        };
        command.args(self.arguments).args(self.options);
        // `version` takes no options.
        if self.arguments != ["version"] {
            command.arg(format!("--config={}", self.config.display()));
        }
        command.env_clear();
        // pgBackRest takes options from variables as well: what this agent was started with must
        // not change what it does. The rest it needs for ssh, and for the names of backups.
        let kept = std::env::vars_os()
            .filter(|(name, _)| !name.to_string_lossy().starts_with("PGBACKREST_"));
        command.envs(kept).env("LC_ALL", "C");
        command
            .current_dir("/")
            .stdin(held)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// What it said.
#[derive(Debug)]
pub struct Answer {
    /// Its standard output.
    pub stdout: String,
}

/// A file of a running backup or restore has been copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which file.
    pub file: String,
    /// How much of the whole is done, hundredths of a percent.
    pub done: u32,
}

/// Asks the program to end when nobody waits for it any more. pgBackRest then ends the backup on
/// the server as well, and releases its lock.
struct Ending(Option<Pid>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended by itself at this moment.
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
}

/// Runs it.
pub async fn run(
    mut invocation: Invocation<'_>,
    within: Duration,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<Answer, BackupError> {
    let not_run = |source| BackupError::Program {
        program: invocation.program.to_owned(),
        source,
    };
    let mut child = invocation.command().spawn().map_err(not_run)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let mut ending = Ending(pid.map(Pid::from_raw));
    let ended = timeout(within, read(&mut child, progress)).await;
    let Ok(ended) = ended else {
        return Err(BackupError::Slow {
            command: invocation.name(),
            within,
        });
    };
    let (stdout, said, status) = ended.map_err(not_run)?;
    ending.0 = None;
    judge(&invocation, status, said)?;
    Ok(Answer { stdout })
}

fn judge(invocation: &Invocation<'_>, status: ExitStatus, said: Said) -> Result<(), BackupError> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(exit), _) => Err(refusal(invocation, exit, said)),
        (None, signal) => Err(BackupError::Ended {
            command: invocation.name(),
            signal: signal.unwrap_or_default(),
        }),
    }
}

fn refusal(invocation: &Invocation<'_>, exit: i32, said: Said) -> BackupError {
    let code = said.code.unwrap_or(exit);
    // `nice` and `ionice` say with these that they found no program.
    if matches!(exit, 126 | 127) && said.code.is_none() {
        return BackupError::Program {
            program: invocation.program.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        };
    }
    let text = match said.words.as_str() {
        "" => "ended without a word".to_owned(),
        words => words.to_owned(),
    };
    BackupError::Refused {
        command: invocation.name(),
        code,
        cause: Cause::of(code, &text),
        text,
    }
}

async fn read(
    child: &mut Child,
    progress: &mut (dyn FnMut(Step) + Send),
) -> std::io::Result<(String, Said, ExitStatus)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let answer = async {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            stdout
                .take(OUTPUT_BYTES_MAX)
                .read_to_end(&mut bytes)
                .await?;
        }
        Ok::<_, std::io::Error>(bytes)
    };
    let (bytes, said) = tokio::try_join!(answer, listen(stderr, progress))?;
    let status = child.wait().await?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), said, status))
}

async fn listen(
    stderr: Option<ChildStderr>,
    progress: &mut (dyn FnMut(Step) + Send),
) -> std::io::Result<Said> {
    let mut said = Said::default();
    let Some(stderr) = stderr else {
        return Ok(said);
    };
    let mut lines = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut lines).take(LINE_BYTES_MAX);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Ok(said);
        }
        let line = String::from_utf8_lossy(&line);
        if let Some(step) = step(&line) {
            progress(step);
        }
        said.hear(&line);
    }
}

/// How a line begins that belongs to the one before it.
const SET_IN: &str = "      ";

/// What its log says of a failure.
#[derive(Debug, Default)]
struct Said {
    code: Option<i32>,
    words: String,
    /// Does the message go on in the next line?
    open: bool,
}

impl Said {
    /// Takes in a line: "ERROR: [103]: words", and lines that are set in below it.
    fn hear(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some((_, rest)) = line.split_once("ERROR: [") {
            // The first is the cause; what follows tells that the command is given up.
            self.open = self.code.is_none();
            if let (true, Some((code, words))) = (self.open, rest.split_once("]: ")) {
                self.code = code.parse().ok();
                self.add(words);
            }
        } else if !line.starts_with(SET_IN) {
            self.open = false;
        } else if self.open {
            let line = line.trim_start();
            // What HTTP has said word by word follows: it helps those who look into the log.
            self.open = !line.starts_with("***");
            if self.open && !line.starts_with("HINT:") {
                self.add(line);
            }
        }
    }

    fn add(&mut self, words: &str) {
        let separator = if self.words.is_empty() { "" } else { " " };
        let room = WORDS_BYTES_MAX.saturating_sub(self.words.len());
        let fits = words
            .char_indices()
            .take_while(|(at, c)| at + c.len_utf8() <= room);
        self.words.push_str(separator);
        self.words
            .extend(fits.map(|(_, c)| c).filter(|c| !c.is_control()));
    }
}

/// Reads "DETAIL: backup file /data/base/1/1255 (744KB, 45.12%) checksum ...".
fn step(line: &str) -> Option<Step> {
    let rest = line.strip_prefix("DETAIL: ")?;
    let rest = rest
        .strip_prefix("backup file ")
        .or_else(|| rest.strip_prefix("restore file "))?;
    let (file, numbers) = rest.rsplit_once(" (")?;
    let (percent, _) = numbers.split_once("%)")?;
    let (whole, part) = percent.rsplit(", ").next()?.split_once('.')?;
    let part: u32 = part.get(..2)?.parse().ok()?;
    let done = whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(part)?;
    Some(Step {
        file: file.to_owned(),
        done: done.min(10_000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(text: &str) -> Said {
        let mut said = Said::default();
        text.lines().for_each(|line| said.hear(line));
        said
    }

    #[test]
    fn the_first_error_counts_with_the_lines_below_it() {
        let said = hear(
            "WARN: odd\nERROR: [103]: unable to find a valid repository:\n            \
             repo1: [FileOpenError] unable to open '/r': [13] Permission denied\n            \
             HINT: has a stanza-create been performed?\nINFO: aborted\n            \
             not of it\nERROR: [104]: expire command encountered 1 error(s)\n",
        );
        assert_eq!(said.code, Some(103));
        assert_eq!(
            said.words,
            "unable to find a valid repository: repo1: [FileOpenError] unable to open '/r': [13] \
             Permission denied"
        );
        let http = hear(
            "ERROR: [039]: HTTP request failed with 403 (FORBIDDEN):\n            \
             *** Path/Query ***:\n            HEAD /shop/x\n            *** Request Headers ***:\n",
        );
        assert_eq!(http.words, "HTTP request failed with 403 (FORBIDDEN):");
        let early = hear("ERROR: [055]: unable to open missing file '/x' for read\n");
        assert_eq!(early.code, Some(55));
        let long = hear(&format!("ERROR: [25]: {}", "ä".repeat(1000)));
        assert!(long.words.len() <= WORDS_BYTES_MAX);
    }

    #[test]
    fn steps_are_read() {
        let line = "DETAIL: backup file /d/base/1/1255 (744KB, 45.12%) checksum 0f\n";
        let expected = Step {
            file: "/d/base/1/1255".to_owned(),
            done: 4512,
        };
        assert_eq!(step(line), Some(expected));
        let done = |line: &str| step(line).map(|step| step.done);
        assert_eq!(
            done("DETAIL: restore file /x (1) y (0B, 100.00%)"),
            Some(10_000)
        );
        for odd in [
            "DETAIL: backup file /d (",
            "INFO: x",
            "DETAIL: store zero-length file /d/base/1/1417",
            "DETAIL: backup file /d (1, ä.b%)",
        ] {
            assert_eq!(step(odd), None, "{odd}");
        }
    }

    /// Runs a shell script as if it were pgBackRest.
    async fn play(script: &str, within: Duration) -> Result<Answer, BackupError> {
        let invocation = Invocation {
            program: Path::new("/bin/sh"),
            config: Path::new("/dev/null"),
            arguments: &["-c", script],
            options: &[],
            priority: Priority::Low,
            held: None,
        };
        run(invocation, within, &mut |_| {}).await
    }

    #[tokio::test]
    async fn whatever_a_program_does_is_told() {
        let long = Duration::from_secs(60);
        let answer = play("echo hello", long).await.unwrap();
        assert_eq!(answer.stdout, "hello\n");
        let refused = play("echo 'ERROR: [050]: busy' >&2; exit 50", long).await;
        assert_eq!(refused.unwrap_err().cause(), Some(Cause::Busy));
        let ended = play("kill -9 $$", long).await.unwrap_err();
        assert!(
            matches!(ended, BackupError::Ended { signal: 9, .. }),
            "{ended}"
        );
        let slow = play("sleep 60", Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(slow, BackupError::Slow { .. }), "{slow}");
    }
}
