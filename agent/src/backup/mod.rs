//! pgBackRest: its configuration file, its commands, and their answers with types.
//!
//! Secrets are read from files and written to one, mode 0600; never to a command line. It must not
//! know who owns the backups, nor when one is due.

mod conf;
mod error;
mod info;
mod run;
mod version;

pub use conf::ConfError;
pub use error::{BackupError, Cause};
pub use run::Priority;
pub use version::{Unfit, Version};

use crate::config::Settings;
use log::debug;
use pgaa_core::backup::repository::StanzaContents;
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::time::Wall;
use run::{Answer, Invocation};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Asking the repository; it may be slow, or at the other end of the world.
const ASK_MAX: Duration = Duration::from_secs(120);

/// Making a stanza asks the server as well, and waits for its locks.
const MAKE_MAX: Duration = Duration::from_secs(180);

/// Archiving one segment by hand: what pgBackRest itself waits for at most, and some.
const PUSH_MAX: Duration = Duration::from_secs(150);

/// A backup takes hours, and nobody can say how many; this says "it hangs".
const BACKUP_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The pgBackRest of this machine, with the configuration that was generated for it. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct PgBackRest {
    program: PathBuf,
    directory: PathBuf,
    settings: Settings,
}

/// How a running backup goes.
pub type OnProgress<'a> = &'a mut (dyn FnMut(run::Step) + Send);
pub use run::Step;

impl PgBackRest {
    /// The one that the settings name; `None` when backups are off. Nothing is written or run.
    #[must_use]
    pub fn new(settings: &Settings) -> Option<PgBackRest> {
        settings.backup.repository.as_ref()?;
        Some(PgBackRest {
            program: settings.backup.program.clone(),
            directory: settings.paths.state_dir.join("backup"),
            settings: settings.clone(),
        })
    }

    /// The generated configuration file. `[global]` names the repository, so that every stanza in
    /// it can be asked for and restored; this node's own stanza has its section.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.directory.join("pgbackrest.conf")
    }

    /// Writes the configuration file, for this node's stanza where it is known. Says whether it
    /// changed. Secrets are read anew each time, so that a new one is taken up without a restart.
    pub fn write_config(&self, own: Option<&Stanza>) -> Result<bool, ConfError> {
        conf::write(&self.settings, own, &self.directory, &self.config_file())
    }

    /// Asks the program which version it is, and whether it will do for this repository.
    pub async fn version(&self) -> Result<Version, BackupError> {
        let answer = self
            .run(&["version"], &[], ASK_MAX, Priority::Usual)
            .await?;
        let version = Version::read(&answer.stdout)
            .ok_or_else(|| BackupError::Nonsense(format!("{:?} as its version", answer.stdout)))?;
        version.fits(self.settings.backup.repository.as_ref())?;
        Ok(version)
    }

    /// What all nodes have in the repository, or one stanza. Stanzas that aren't ours are left
    /// out. `archived_at` isn't looked up: see [`PgBackRest::archived_at`].
    pub async fn info(&self, stanza: Option<&Stanza>) -> Result<Vec<StanzaContents>, BackupError> {
        let mut options = vec!["--output=json".to_owned()];
        options.extend(stanza.map(stanza_option));
        let answer = self
            .run(&["info"], &options, ASK_MAX, Priority::Usual)
            .await?;
        info::read(&answer.stdout)
    }

    /// The same, with the moment up to which the WAL of each stanza was archived.
    pub async fn contents(&self) -> Result<Vec<StanzaContents>, BackupError> {
        let mut all = self.info(None).await?;
        for contents in &mut all {
            // Without it a window ends with its last backup: less is promised than there is.
            contents.archived_at = match self.archived_at(contents).await {
                Ok(at) => at,
                Err(error) => {
                    debug!("how far {} goes is not known: {error}", contents.stanza);
                    None
                }
            };
        }
        Ok(all)
    }

    /// When the newest segment of a stanza's WAL came into the repository.
    pub async fn archived_at(
        &self,
        contents: &StanzaContents,
    ) -> Result<Option<Wall>, BackupError> {
        let Some(last) = contents.wal_last.as_deref().filter(|last| last.len() == 24) else {
            return Ok(None);
        };
        // Segments lie in directories named by timeline and the upper half of their number.
        let directory = format!("archive/{}", contents.stanza);
        let listed = self.list(&directory).await?;
        let mut newest = None;
        for id in info::directories(&listed)? {
            let upper = last.get(..16).unwrap_or_default();
            let listed = self.list(&format!("{directory}/{id}/{upper}")).await?;
            newest = newest.max(info::time_of(&listed, last)?);
        }
        Ok(newest)
    }

    async fn list(&self, path: &str) -> Result<String, BackupError> {
        let options = ["--output=json".to_owned()];
        let arguments = ["repo-ls", path];
        let answer = self
            .run(&arguments, &options, ASK_MAX, Priority::Usual)
            .await?;
        Ok(answer.stdout)
    }

    /// Makes a stanza where there is none; changes nothing where there is.
    pub async fn make_stanza(&self, own: &Stanza) -> Result<(), BackupError> {
        let options = [stanza_option(own)];
        self.run(&["stanza-create"], &options, MAKE_MAX, Priority::Usual)
            .await
            .map(drop)
    }

    /// Takes a backup of this node, at low priority. Ends when it is complete, with what the
    /// retention lets go removed. Dropping it asks pgBackRest to stop: what it has copied is taken
    /// up by the next backup.
    pub async fn backup(
        &self,
        own: &Stanza,
        kind: BackupKind,
        notes: &[(&str, String)],
        progress: OnProgress<'_>,
    ) -> Result<(), BackupError> {
        let mut options = vec![
            stanza_option(own),
            format!("--type={}", short(kind)),
            "--start-fast".to_owned(),
            // Of the files, each with its share of the whole, when it has been copied.
            "--log-level-stderr=detail".to_owned(),
        ];
        let noted = notes.iter();
        options.extend(noted.map(|(name, value)| format!("--annotation={name}={value}")));
        let config = self.config_file();
        let invocation = self.invocation(&config, &["backup"], &options, Priority::Low);
        run::run(invocation, BACKUP_MAX, progress).await.map(drop)
    }

    /// Archives one segment of this node's WAL, as the server would: the proof that the
    /// repository takes WAL again.
    pub async fn push(&self, own: &Stanza, segment: &Path) -> Result<(), BackupError> {
        let options = [stanza_option(own)];
        let segment = segment.to_string_lossy();
        self.run(
            &["archive-push", &segment],
            &options,
            PUSH_MAX,
            Priority::Usual,
        )
        .await
        .map(drop)
    }

    /// Removes from a stanza what the retention doesn't keep. Its last full backup always stays.
    pub async fn expire(&self, stanza: &Stanza) -> Result<(), BackupError> {
        let options = [stanza_option(stanza)];
        self.run(&["expire"], &options, MAKE_MAX, Priority::Low)
            .await
            .map(drop)
    }

    /// Removes a stanza with all it holds. Never this node's own.
    pub async fn remove_stanza(&self, former: &Stanza) -> Result<(), BackupError> {
        // pgBackRest wants to be told first that nobody archives there any more, and to see that
        // no server runs in the stanza's data directory: there is none on this machine.
        let stanza = stanza_option(former);
        let stop = std::slice::from_ref(&stanza);
        self.run(&["stop"], stop, ASK_MAX, Priority::Usual).await?;
        let nowhere = self.directory.join("no-cluster");
        let options = [stanza, format!("--pg1-path={}", nowhere.display())];
        self.run(&["stanza-delete"], &options, MAKE_MAX, Priority::Low)
            .await
            .map(drop)
    }

    /// What `archive_command` is on the owner.
    #[must_use]
    pub fn archive_command(&self, own: &Stanza) -> String {
        format!("{} archive-push %p", self.prefix(own))
    }

    /// What `restore_command` is where this stanza's WAL is replayed.
    #[must_use]
    pub fn restore_command(&self, stanza: &Stanza) -> String {
        format!("{} archive-get %f %p", self.prefix(stanza))
    }

    /// Restores a stanza's backup into `directory`, with these further options ("--type=time",
    /// "--target=..."), at low priority. pgBackRest refuses a directory that isn't empty. It has
    /// `held` open for as long as it runs, even when it outlives this process.
    pub async fn restore(
        &self,
        stanza: &Stanza,
        directory: &Path,
        further: &[String],
        held: File,
        progress: OnProgress<'_>,
    ) -> Result<(), BackupError> {
        let mut options = vec![
            stanza_option(stanza),
            format!("--pg1-path={}", directory.display()),
            "--log-level-stderr=detail".to_owned(),
        ];
        options.extend(further.iter().cloned());
        let config = self.config_file();
        let invocation = Invocation {
            held: Some(held),
            ..self.invocation(&config, &["restore"], &options, Priority::Low)
        };
        run::run(invocation, BACKUP_MAX, progress).await.map(drop)
    }

    /// A command line for the server's shell, up to the command. In it `%` stands for itself when
    /// it is doubled (PostgreSQL's manual, archive_command).
    fn prefix(&self, stanza: &Stanza) -> String {
        let quoted = |path: &Path| {
            let text = path.to_string_lossy().replace('%', "%%");
            format!("'{}'", text.replace('\'', "'\\''"))
        };
        format!(
            "{} --config={} {}",
            quoted(&self.program),
            quoted(&self.config_file()),
            stanza_option(stanza)
        )
    }

    async fn run(
        &self,
        arguments: &[&str],
        options: &[String],
        within: Duration,
        priority: Priority,
    ) -> Result<Answer, BackupError> {
        let config = self.config_file();
        let invocation = self.invocation(&config, arguments, options, priority);
        run::run(invocation, within, &mut |_| {}).await
    }

    fn invocation<'a>(
        &'a self,
        config: &'a Path,
        arguments: &'a [&'a str],
        options: &'a [String],
        priority: Priority,
    ) -> Invocation<'a> {
        Invocation {
            program: &self.program,
            config,
            arguments,
            options,
            priority,
            held: None,
        }
    }
}

fn stanza_option(stanza: &Stanza) -> String {
    format!("--stanza={stanza}")
}

fn short(kind: BackupKind) -> &'static str {
    match kind {
        BackupKind::Full => "full",
        BackupKind::Differential => "diff",
        BackupKind::Incremental => "incr",
    }
}
