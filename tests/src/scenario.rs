//! Running one scenario: a failure shows every node, and a person can step in before the
//! nodes are gone.

use crate::cluster::Cluster;
use anyhow::Result;
use std::io::stdin;

/// Starts `count` nodes and plays a scenario on them.
pub fn play(count: usize, scenario: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    conclude(Cluster::start(count)?, scenario)
}

/// The same for nodes that the scenario itself boots.
pub fn play_unstarted(count: usize, scenario: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    conclude(Cluster::prepare(count)?, scenario)
}

/// Set `PGAA_TEST_HOLD=1` (with `cargo nextest run --no-capture`) to keep a failed cluster
/// running until Enter is pressed.
fn conclude(cluster: Cluster, scenario: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let outcome = scenario(&cluster);
    if let Err(error) = &outcome {
        eprintln!("{}\nfailed: {error:#}", cluster.portrait());
        if std::env::var_os("PGAA_TEST_HOLD").is_some() {
            eprintln!("held; look around with `ip netns exec`, then press Enter");
            stdin().read_line(&mut String::new())?;
        }
    }
    outcome
}
