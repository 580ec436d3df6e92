//! Ends everything the demo has started, and removes what it has made.
//!
//! Works from the state file and from what runs, so that a start that broke off anywhere, or a
//! demo that was killed, is cleared away as well.

use super::place::Place;
use super::processes::{Found, Mark, Signs, await_end, find};
use super::state::{DemoNode, DemoState};
use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

/// How long an agent has to end by itself.
const AGENT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a server has: it only has to end its children.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);
/// Nothing outlives SIGKILL, but the kernel needs a moment.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Ends all processes of these nodes.
pub async fn stop(state: &DemoState, nodes: &[DemoNode], place: &Place) -> Result<()> {
    let signs = signs(state, nodes, place);
    let marked = |pick: fn(&DemoNode) -> Option<Mark>| {
        nodes
            .iter()
            .filter_map(pick)
            .filter(Mark::is_alive)
            .collect::<BTreeSet<Mark>>()
    };
    let starters = || {
        let mut starters = find(&signs).starters;
        starters.extend(marked(|node| node.agent));
        starters
    };
    end(starters, starters, Signal::SIGTERM, AGENT_PATIENCE).await?;
    let found = || {
        let Found {
            mut servers,
            mut server_processes,
            ..
        } = find(&signs);
        servers.extend(marked(|node| node.server));
        server_processes.extend(marked(|node| node.server));
        (servers, server_processes)
    };
    // The data is thrown away, so no checkpoint: an immediate shutdown.
    end(|| found().0, || found().1, Signal::SIGQUIT, SERVER_PATIENCE).await
}

/// Sends `signal` to what `told` finds, waits for all that `gone` finds, and kills the rest.
async fn end(
    told: impl Fn() -> BTreeSet<Mark>,
    gone: impl Fn() -> BTreeSet<Mark>,
    signal: Signal,
    patience: Duration,
) -> Result<()> {
    for mark in told() {
        mark.signal(signal)?;
    }
    for mark in await_end(&gone, patience).await {
        mark.signal(Signal::SIGKILL)?;
    }
    let left = await_end(&gone, KILL_PATIENCE).await;
    let pids: Vec<String> = left.iter().map(|mark| mark.pid.to_string()).collect();
    ensure!(
        pids.is_empty(),
        "these processes don't end: {}",
        pids.join(", ")
    );
    Ok(())
}

fn signs(state: &DemoState, nodes: &[DemoNode], place: &Place) -> Signs {
    Signs {
        bin_dir: fs::canonicalize(&state.bin_dir).unwrap_or_else(|_| state.bin_dir.clone()),
        agent_program: state.program.clone(),
        data_dirs: nodes
            .iter()
            .map(|node| place.node(&node.name).data())
            .collect(),
        configs: nodes
            .iter()
            .map(|node| place.node(&node.name).config)
            .collect(),
    }
}

/// Ends everything and removes the directory.
pub async fn remove(place: &Place) -> Result<()> {
    if let Some(state) = DemoState::read(place)? {
        stop(&state, &state.nodes, place).await?;
    }
    place.remove().await
}

/// Ends the processes of one node that didn't get to be part of the demo, and lets go of it. Its
/// files stay until the whole directory goes.
pub async fn drop_node(state: &mut DemoState, index: usize, place: &Place) -> Result<()> {
    let node = state.nodes.remove(index);
    stop(state, std::slice::from_ref(&node), place).await?;
    state.write(place)
}
