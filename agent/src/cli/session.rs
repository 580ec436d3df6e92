//! Finds the agent that is meant, and the configuration that counts.

use super::args::Global;
use super::exit::Failure;
use crate::config::{self, Loaded, Merged, Sources, Surroundings};
use crate::control::client::{Client, Sockets};
use std::path::Path;

/// Where packages and units put the sockets.
const RUN_DIR: &str = "/run/pgaa";

/// The layers that the arguments choose.
#[must_use]
pub fn sources(global: &Global) -> Sources {
    let root = Path::new("/");
    let sources = match (&global.config, &global.config_dir) {
        (Some(file), _) => Sources::single(file),
        (None, Some(directory)) => Sources::layered(root, directory),
        (None, None) => Sources::of_machine(root),
    };
    sources.with_variables(std::env::vars_os())
}

/// The configuration that counts, checked.
pub fn load(global: &Global) -> Result<Loaded, Failure> {
    let sources = sources(global);
    Ok(config::load(&sources, &Surroundings::of_machine(&sources))?)
}

/// Where to look for the agent. The configuration is read only when it was named, or when there
/// is no socket in the usual place: `status` shall not wait for files it doesn't need.
#[must_use]
pub fn sockets(global: &Global) -> Sockets {
    if let Some(path) = &global.socket {
        return Sockets::One(path.clone());
    }
    let usual = Path::new(RUN_DIR);
    let named = global.config.is_some() || global.config_dir.is_some();
    if !named && (usual.join("agent.sock").exists() || usual.join("read.sock").exists()) {
        return Sockets::Directory(usual.to_owned());
    }
    // A configuration that is wrong elsewhere may still tell where the agent is.
    let (merged, _) = Merged::read_all(&sources(global));
    Sockets::Directory(
        merged
            .path("paths.run_dir")
            .unwrap_or_else(|| usual.to_owned()),
    )
}

/// Connects to the agent that is meant.
pub async fn connect(global: &Global) -> Result<Client, Failure> {
    Ok(Client::connect(&sockets(global)).await?)
}
