//! Whose changes come under which origin. Numbers of origins are each server's own, and never given
//! to another node: whose one was is kept when the node has gone, because its rows are still here.

use crate::daemon::node::Node;
use crate::postgres::SqlError;
use pgaa_core::ids::{NodeId, pglogical_node_name};
use pgaa_core::roster::Roster;
use std::collections::BTreeMap;

/// Reads them, and keeps what is new.
pub async fn read(node: &Node) -> Result<BTreeMap<u32, NodeId>, SqlError> {
    let by_name = node.knowledge.with_roster(by_name).unwrap_or_default();
    let mut origins = BTreeMap::new();
    for origin in node.postgres.origins().await? {
        let now = origin.pglogical_node.as_ref();
        let now = now.and_then(|name| by_name.get(name).copied());
        if let Some(owner) = now.filter(|_| now != origin.kept) {
            node.postgres.keep_origin(origin.number, owner).await?;
        }
        if let Some(owner) = now.or(origin.kept) {
            origins.insert(origin.number, owner);
        }
    }
    Ok(origins)
}

/// Members, and those that are gone, by their names in pglogical.
fn by_name(roster: &Roster) -> BTreeMap<String, NodeId> {
    let members = roster.members().into_iter();
    let members = members.filter_map(|member| Some((member, roster.epoch(member)?)));
    let gone = roster.tombstones.iter();
    members
        .chain(gone.map(|(node, tombstone)| (*node, tombstone.epoch)))
        .map(|(node, epoch)| (pglogical_node_name(node, epoch), node))
        .collect()
}
