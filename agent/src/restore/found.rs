//! The whole mesh's way back on this node: the steps of `pgaa_core::restore::found`, done one by one.
//!
//! Nothing is removed: database and identity of the old mesh are set aside under names with the time
//! at which it began. While it is under way its file keeps the agent from starting.

use super::bring::{Wish, bring, in_words};
use super::scratch::{Purpose, Scratch};
use super::side::Side;
use crate::config::Settings;
use crate::durable;
use crate::failpoint;
use crate::postgres::server::{Server, Status};
use crate::trust::{JoinToken, Tokens};
use anyhow::{Context, bail};
use pgaa_core::restore::Target;
use pgaa_core::restore::found::{Journey, Role, Step};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How far it has come, in the state directory.
const FILE: &str = "going-back.json";
/// What is set aside begins with it.
const ASIDE: &str = "before-";
/// The settings of a cluster whose data directory holds them; the node's own count, not those of
/// the node that took the backup.
const SETTINGS: [&str; 5] = [
    "postgresql.conf",
    "postgresql.auto.conf",
    "pg_hba.conf",
    "pg_ident.conf",
    "conf.d",
];

/// Is it under way in this state directory? Then no agent may start: it would take part with half
/// of each mesh.
pub fn under_way(state_dir: &Path) -> anyhow::Result<Option<Journey>> {
    Ok(durable::read_json(&state_dir.join(FILE))?)
}

/// What is wanted of this node.
#[derive(Debug, Clone)]
pub struct Way {
    settings: Settings,
    target: Target,
    stanza: Option<String>,
    journey: Journey,
}

impl Way {
    /// The one that is under way, else a new one; `stamp` becomes part of names. What is in the way
    /// is an error with what helps.
    pub fn new(
        settings: &Settings,
        role: Role,
        past: (Target, Option<String>),
        stamp: String,
    ) -> anyhow::Result<Way> {
        let journey = under_way(&settings.paths.state_dir)?;
        let begun = journey.is_some();
        let journey = journey.unwrap_or(Journey {
            role,
            stamp,
            done: Vec::new(),
            past: Some(past.clone()),
        });
        if journey.role != role {
            bail!(
                "this node is on its way as the other kind: go on with the command it began with"
            );
        }
        // "An hour ago" is another moment by now.
        let (target, stanza) = journey.past.clone().unwrap_or(past);
        let way = Way {
            settings: settings.clone(),
            target,
            stanza,
            journey,
        };
        way.nothing_runs()?;
        if !begun {
            way.fenced()?;
            way.movable()?;
        }
        Ok(way)
    }

    /// Its steps in words, and whether each is done.
    #[must_use]
    pub fn in_words(&self) -> Vec<(String, bool)> {
        let steps = self.journey.role.steps().iter();
        steps
            .map(|step| (self.step_in_words(*step), self.journey.done.contains(step)))
            .collect()
    }

    fn step_in_words(&self, step: Step) -> String {
        let data = self.settings.postgres.data_dir.display();
        match step {
            Step::Restore => format!(
                "restore a backup to {}, and recover it: {}",
                self.restored().display(),
                in_words(self.target)
            ),
            Step::Strip => {
                "take slots, origins, pglogical and the agent's schema out of it".to_owned()
            }
            Step::SetIdentityAside => format!(
                "set identity, certificates, CA, keyring and roster aside: {}",
                self.identity_aside().display()
            ),
            Step::SetDatabaseAside => {
                format!(
                    "set the old database aside: {data} -> {}",
                    self.data_aside().display()
                )
            }
            Step::PutInPlace => format!("put the restored one in its place: {data}"),
        }
    }

    fn restored(&self) -> PathBuf {
        beside(&self.settings.postgres.data_dir, "restored")
    }

    fn data_aside(&self) -> PathBuf {
        let name = format!("{ASIDE}{}", self.journey.stamp);
        beside(&self.settings.postgres.data_dir, &name)
    }

    fn identity_aside(&self) -> PathBuf {
        let name = format!("{ASIDE}{}", self.journey.stamp);
        self.settings.paths.state_dir.join(name)
    }

    fn nothing_runs(&self) -> anyhow::Result<()> {
        if UnixStream::connect(self.settings.paths.agent_socket()).is_ok() {
            bail!("the agent runs on this node: systemctl stop pgaa-agent");
        }
        let server = Server::new(&self.settings.postgres)?;
        if server.status()? == Status::Running {
            let unit = server.kind().instance();
            let unit = unit.map_or("postgresql".to_owned(), |of| format!("postgresql@{of}"));
            bail!("PostgreSQL runs on this node: systemctl stop {unit}");
        }
        Ok(())
    }

    /// The old mesh knows the old token; nodes of both could pair with it.
    fn fenced(&self) -> anyhow::Result<()> {
        let known = Tokens::open(&self.settings.paths.state_dir)?.share();
        for path in &self.settings.token_files {
            let Some(bytes) = durable::read(path)? else {
                continue;
            };
            let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
            let token = JoinToken::parse(text.trim())
                .with_context(|| format!("{} holds no valid join token", path.display()))?;
            let theirs = known.get(&token.id);
            if !theirs.is_some_and(|entry| entry.secret.matches(&token.secret)) {
                return Ok(());
            }
            bail!(
                "the join token in {} belongs to the old mesh, whose nodes could use it: put a new one \
                 there, the same on every machine of the new mesh: echo \"pgaa1.$(openssl rand -hex \
                 4).$(openssl rand -hex 32)\"",
                path.display()
            );
        }
        bail!(
            "there is no join token: put a new one where cluster.token_file says, on every machine"
        )
    }

    /// Directories are renamed, so they must not be mount points.
    fn movable(&self) -> anyhow::Result<()> {
        let data = &self.settings.postgres.data_dir;
        let device = |path: &Path| fs::metadata(path).map(|seen| seen.dev()).ok();
        let above = data.parent().unwrap_or(Path::new("/"));
        if data.exists() && device(data) != device(above) {
            bail!(
                "{} is a file system of its own and can't be renamed: mount it one directory higher, \
                 so that the old and the new database fit into it side by side",
                data.display()
            );
        }
        Ok(())
    }

    /// Does what is left to be done.
    pub async fn go(&mut self, told: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<()> {
        self.save()?;
        for step in self.journey.left() {
            told(&self.step_in_words(step));
            match step {
                Step::Restore => self.restore(told).await?,
                Step::Strip => self.strip(told).await?,
                Step::SetIdentityAside => self.set_identity_aside()?,
                Step::SetDatabaseAside => {
                    rename(&self.settings.postgres.data_dir, &self.data_aside())?;
                }
                Step::PutInPlace => self.put_in_place()?,
            }
            failpoint::reached(point(step)).await;
            self.journey.finish(step);
            self.save()?;
        }
        let file = self.settings.paths.state_dir.join(FILE);
        rename(&file, &self.identity_aside().join(FILE))
    }

    fn save(&self) -> anyhow::Result<()> {
        let file = self.settings.paths.state_dir.join(FILE);
        Ok(durable::write_json(&file, &self.journey)?)
    }

    fn wish(&self) -> Wish {
        Wish {
            directory: self.restored(),
            purpose: Purpose::Anew,
            target: self.target,
            stanza: self.stanza.clone(),
        }
    }

    async fn restore(&self, told: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<()> {
        let side = bring(&self.settings, &self.wish(), told).await?;
        let mut tablespaces = fs::read_dir(side.scratch().path("tablespaces"))?;
        if tablespaces.next().is_some() {
            bail!(
                "the backup has tablespaces, and there is no way back for them yet: pgaa-agent backup \
                 restore --to DIR, and load a dump of it into an empty mesh (pg_dump)"
            );
        }
        Ok(())
    }

    async fn strip(&self, told: &mut (dyn FnMut(&str) + Send)) -> anyhow::Result<()> {
        // It runs still, unless this is another attempt.
        let side = bring(&self.settings, &self.wish(), told).await?;
        let left = side.postgres().strip().await?;
        if !left.is_empty() {
            bail!(
                "this is still in the restored database: {}",
                left.join(", ")
            );
        }
        side.stop()
    }

    fn set_identity_aside(&self) -> anyhow::Result<()> {
        let state = &self.settings.paths.state_dir;
        let aside = self.identity_aside();
        durable::make_directory(&aside, 0o700)?;
        for entry in fs::read_dir(state)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_string_lossy();
            if ours != FILE && !ours.starts_with(ASIDE) {
                rename(&entry.path(), &aside.join(&name))?;
            }
        }
        Ok(())
    }

    fn put_in_place(&self) -> anyhow::Result<()> {
        let data = &self.settings.postgres.data_dir;
        let restored = self.restored();
        if restored.join("data").exists() {
            self.keep_settings(&restored.join("data"))?;
            rename(&restored.join("data"), data)?;
        }
        if let Some(scratch) = Scratch::open(&restored)? {
            drop(Side::new(scratch, &self.settings).discard()?);
        }
        Ok(())
    }

    /// On a cluster whose settings lie in its data directory they stay this node's own.
    fn keep_settings(&self, restored: &Path) -> anyhow::Result<()> {
        for name in SETTINGS {
            let (own, theirs) = (self.data_aside().join(name), restored.join(name));
            let failed = || format!("{} can't be kept", own.display());
            if own.is_dir() {
                durable::make_directory(&theirs, 0o700)?;
                for entry in fs::read_dir(&own).with_context(failed)? {
                    let entry = entry.with_context(failed)?;
                    fs::copy(entry.path(), theirs.join(entry.file_name())).with_context(failed)?;
                }
            } else if own.exists() {
                fs::copy(&own, &theirs).with_context(failed)?;
            }
        }
        Ok(())
    }
}

/// Where tests end it: the step is done, and not noted yet.
fn point(step: Step) -> &'static str {
    match step {
        Step::Restore => "found_restored",
        Step::Strip => "found_stripped",
        Step::SetIdentityAside => "found_identity_aside",
        Step::SetDatabaseAside => "found_database_aside",
        Step::PutInPlace => "found_in_place",
    }
}

/// "/srv/main" and "x": "/srv/main.x".
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    path.with_file_name(name)
}

/// Renames what wasn't renamed yet, and never over something.
fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    match (from.exists(), to.exists()) {
        (true, false) => fs::rename(from, to)
            .with_context(|| format!("{} can't be renamed to {}", from.display(), to.display())),
        (false, _) => Ok(()),
        (true, true) => bail!(
            "both {} and {} are there: move one of them away",
            from.display(),
            to.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_renamed_over_and_a_second_time_does_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (
            root.path().join("main"),
            beside(&root.path().join("main"), "old"),
        );
        assert!(to.ends_with("main.old"));
        fs::create_dir(&from).unwrap();
        rename(&from, &to).unwrap();
        rename(&from, &to).unwrap();
        assert!(to.is_dir() && !from.exists());
        fs::create_dir(&from).unwrap();
        let refused = rename(&from, &to).unwrap_err().to_string();
        assert!(refused.contains("move one of them away"), "{refused}");
    }
}
