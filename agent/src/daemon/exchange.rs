//! Carries node records between members: pushed when ours says something new, fetched on a hint
//! from gossip, and every few seconds with a random member, so that nothing stays unknown or old.
//! Fetches the tables of members whose catalogue differs from ours.
//!
//! Must not decide what a record means.

use super::node::Node;
use super::twins;
use crate::peer::{PeerError, Refusal};
use log::debug;
use pgaa_core::ids::NodeId;
use pgaa_core::roster::Roster;
use pgaa_core::tables::Catalog;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Between two exchanges with a random member.
const PERIOD: Duration = Duration::from_secs(5);

/// Pushes are bundled: a change that follows another within this time goes with it.
const BUNDLE: Duration = Duration::from_millis(5);

/// Before a member that failed is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// How often a member that fails is asked again before the next period.
const RETRIES_MAX: u32 = 20;

/// Runs until the task is dropped. `hints` carries nodes whose record is said to be newer than
/// what we have, and nodes that came back.
pub async fn run(node: Arc<Node>, mut hints: mpsc::Receiver<NodeId>) {
    let mut periodic = tokio::time::interval(PERIOD);
    // The first tick is due at once: after a start everybody is asked.
    let mut running: JoinSet<(NodeId, bool)> = JoinSet::new();
    let mut failures: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut first = true;
    loop {
        let targets: Vec<(NodeId, SocketAddr)> = tokio::select! {
            () = node.enrolled.notified() => everybody(&node),
            () = node.knowledge.record_changed.notified() => {
                tokio::time::sleep(BUNDLE).await;
                everybody(&node)
            }
            Some(hinted) = hints.recv() => address_of(&node, hinted).into_iter().collect(),
            _ = periodic.tick() => {
                let mut all = everybody(&node);
                if !std::mem::take(&mut first) && !all.is_empty() {
                    let chosen = rand::rng().random_range(0..all.len());
                    all = vec![all.swap_remove(chosen)];
                }
                all
            }
            Some(Ok((peer, done))) = running.join_next(), if !running.is_empty() => {
                let again = count(&mut failures, peer, done);
                let targets = again.then(|| address_of(&node, peer)).flatten();
                targets.into_iter().collect()
            }
        };
        for (peer, address) in targets {
            let pause = failures.get(&peer).map_or(Duration::ZERO, |_| RETRY);
            let node = Arc::clone(&node);
            running.spawn(async move {
                tokio::time::sleep(pause).await;
                (peer, exchange(node, peer, address).await)
            });
        }
    }
}

/// Counts how often a member has failed in a row; says whether it is asked again soon. While a
/// mesh forms a member may be a moment behind with its certificate; one that is gone comes back
/// with a hint from gossip.
fn count(failures: &mut BTreeMap<NodeId, u32>, peer: NodeId, done: bool) -> bool {
    if done {
        failures.remove(&peer);
        return false;
    }
    let count = failures.entry(peer).or_default();
    *count = count.saturating_add(1);
    *count <= RETRIES_MAX
}

/// Every other member and where it is, as far as known: by its record, or, while it has none, by
/// what the founding has seen.
fn everybody(node: &Node) -> Vec<(NodeId, SocketAddr)> {
    let members = node
        .knowledge
        .with_roster(Roster::members)
        .unwrap_or_default();
    members
        .into_iter()
        .filter_map(|member| address_of(node, member))
        .collect()
}

fn address_of(node: &Node, member: NodeId) -> Option<(NodeId, SocketAddr)> {
    if member == node.id() {
        return None;
    }
    let record = node.knowledge.with_roster(|roster| {
        roster
            .records
            .get(&member)
            .map(|record| record.endpoints.grpc)
    });
    let address = record
        .flatten()
        .or_else(|| node.founding().address_of(member))?;
    Some((member, address))
}

/// One exchange: offers what the other may lack, takes what we lack, and answers what it wants.
/// Returns whether the member answered.
async fn exchange(node: Arc<Node>, peer: NodeId, address: SocketAddr) -> bool {
    let Some(roster) = node.knowledge.roster() else {
        return true;
    };
    let have = roster.versions();
    let offer = only(&roster, &BTreeSet::from([node.id()]));
    let answer = node.peers.exchange(peer, address, have, offer).await;
    let (mut theirs, want) = match answer {
        Ok(answer) => answer,
        Err(PeerError::Refused { address, refusal }) => {
            note_refusal(&node, (peer, address), &refusal);
            return true;
        }
        Err(error) => {
            debug!("{} was not reached: {error}", peer.short());
            return false;
        }
    };
    node.knowledge.note_answer(peer, node.clocks.mono());
    if let Err(refusal) = twins::sift(&node, peer, &mut theirs).await {
        debug!("{} is not believed: {refusal}", peer.short());
        return true;
    }
    let now = node.clocks.now();
    if let Err(error) = node.knowledge.merge(&theirs, now) {
        debug!("what {} knows was not taken: {error}", peer.short());
        return true;
    }
    let wanted: BTreeSet<NodeId> = want.into_iter().collect();
    if !wanted.is_empty() {
        let roster = node.knowledge.roster().unwrap_or(roster);
        let offer = only(&roster, &wanted);
        if let Err(error) = node
            .peers
            .exchange(peer, address, roster.versions(), offer)
            .await
        {
            debug!("{} did not take what it wanted: {error}", peer.short());
        }
    }
    fetch_tables(&node, peer, address).await;
    true
}

/// A member that answers and refuses says something about this node's place in the mesh.
fn note_refusal(node: &Node, (peer, address): (NodeId, SocketAddr), refusal: &Refusal) {
    match refusal.code.as_str() {
        "buried" | "parted" => {
            let text = format!("{} at {address} refuses this node: {refusal}", peer.short());
            node.knowledge.note_parted(text);
        }
        twins::TWIN => twins::set_apart(node, refusal),
        _ => debug!("{} refuses an exchange: {refusal}", peer.short()),
    }
}

/// The roster with the records of `nodes` alone.
fn only(roster: &Roster, nodes: &BTreeSet<NodeId>) -> Roster {
    let mut some = roster.clone();
    some.records.retain(|node, _| nodes.contains(node));
    some
}

/// Fetches a member's tables when its digest is neither ours nor the one we have.
async fn fetch_tables(node: &Node, peer: NodeId, address: SocketAddr) {
    let digest_of = |member: NodeId| {
        node.knowledge
            .with_roster(|r| r.records.get(&member).map(|r| r.catalog))
            .flatten()
    };
    let (Some(theirs), own) = (digest_of(peer), digest_of(node.id())) else {
        return;
    };
    if own == Some(theirs) || node.knowledge.has_catalog(peer, theirs) {
        return;
    }
    match node.peers.catalog(peer, address).await {
        Ok(catalog) => {
            let tables: BTreeMap<String, (u64, bool)> = catalog
                .tables
                .into_iter()
                .map(|table| (table.name, (table.structure, table.primary_key)))
                .collect();
            node.knowledge.set_catalog(
                peer,
                Catalog {
                    digest: catalog.digest,
                    tables,
                },
            );
        }
        Err(error) => debug!("the tables of {} are unknown: {error}", peer.short()),
    }
}
