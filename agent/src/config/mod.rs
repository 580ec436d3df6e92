//! Layered configuration: fragments, merged inputs, validated settings.
//!
//! Reads files and the variables it is handed; it never writes, and knows nothing of what the
//! settings are used for.

mod debian;
mod fragment;
pub mod keys;
mod problem;
mod seeds;
mod settings;
mod show;
mod sources;
mod validate;

pub use debian::clusters;
pub use problem::{ConfigError, Origin, Problem};
pub use settings::*;
pub use show::{man_section, sample, show};
pub use sources::{Merged, Sources};
pub use validate::Surroundings;

use std::fs::File;
use std::path::Path;

/// A configuration that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What the agent works with.
    pub settings: Settings,
    /// What is odd, but allowed.
    pub warnings: Vec<Problem>,
    /// What the settings were made from.
    pub merged: Merged,
}

/// Reads, merges and checks. On failure there is everything that is wrong with any layer.
pub fn load(sources: &Sources, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    let (merged, problems) = Merged::read_all(sources);
    let (settings, warnings) = validate::validate(&merged, surroundings, problems)?;
    Ok(Loaded {
        settings,
        warnings,
        merged,
    })
}

/// Checks a configuration that is no file yet, for a machine that isn't this one.
pub fn check_text(text: &str) -> Result<Settings, ConfigError> {
    let (merged, problems) = Merged::of_text(Path::new("agent.toml"), text);
    let elsewhere = Surroundings {
        root: "/nonexistent".into(),
        host_name: "node-1".to_owned(),
        credentials_dir: None,
    };
    validate::validate(&merged, &elsewhere, problems).map(|(settings, _)| settings)
}

impl Surroundings {
    /// This machine, from the file system, the kernel and these sources' environment.
    #[must_use]
    pub fn of_machine(sources: &Sources) -> Surroundings {
        let host_name = nix::unistd::gethostname().unwrap_or_default();
        Surroundings {
            root: "/".into(),
            host_name: host_name.to_string_lossy().into_owned(),
            credentials_dir: sources.variable("CREDENTIALS_DIRECTORY").map(Into::into),
        }
    }
}

/// Whether the join token can be read. A member needs it no more, so this only warns.
#[must_use]
pub fn token_warning(settings: &Settings) -> Option<Problem> {
    let file = settings.token_files.iter().find(|file| file.exists());
    let (path, text) = match file {
        Some(file) => match File::open(file) {
            Ok(_) => return None,
            Err(error) => (
                file.clone(),
                format!("the join token can't be read: {error}"),
            ),
        },
        None => (
            settings.token_files.first().cloned().unwrap_or_default(),
            "there is no join token; a node that isn't a member yet can't join without one: \
             \"pgaa-agent token create\" on a member prints one"
                .to_owned(),
        ),
    };
    Some(Problem::new(
        Origin::File { path, line: 0 },
        "cluster.token_file",
        text,
    ))
}

#[cfg(test)]
mod tests;
