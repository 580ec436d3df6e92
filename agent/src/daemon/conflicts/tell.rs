//! Answers `pgaa-agent conflicts`.

use crate::daemon::membership;
use crate::daemon::node::Node;
use crate::postgres::conflicts::Wanted;
use anyhow::{Context, bail};
use pgaa_core::conflicts::report::{Hot, Query, Report, SCHEMA_VERSION, advice};
use pgaa_core::ids::NodeId;

/// More single conflicts than this are no answer for people, nor for most programs; the table has
/// them all.
const SINGLE_MAX: u32 = 1_000;

/// What this node has met.
pub async fn tell(node: &Node, query: Query) -> anyhow::Result<Report> {
    let pair = pair(node, query.pair.as_ref())?;
    let wanted = Wanted {
        since: query.since,
        table: query.table.clone(),
        pair,
        me: node.settings.node.name.to_string(),
        limit: query.limit.min(SINGLE_MAX),
    };
    let told = node.postgres.conflicts(&wanted).await?;
    let list = |of: &str| -> Vec<Hot> {
        let of = told.hot.iter().filter(|(kind, _)| kind == of);
        of.map(|(_, hot)| hot.clone()).collect()
    };
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        node: wanted.me.clone(),
        at: node.clocks.wall(),
        since: query.since,
        counts: told.counts,
        tables: list("table"),
        keys: list("key"),
        pairs: list("pair"),
        conflicts: told.single,
        advice: Vec::new(),
        off: node.conflicts.borrow().off.clone(),
    };
    report.advice = advice(&report);
    Ok(report)
}

fn pair(node: &Node, names: Option<&(String, String)>) -> anyhow::Result<Option<(NodeId, NodeId)>> {
    let Some((one, other)) = names else {
        return Ok(None);
    };
    let roster = node.knowledge.roster();
    let roster = roster.context("this node is in no cluster: there are no pairs of nodes")?;
    let pair = (
        membership::find(&roster, one)?,
        membership::find(&roster, other)?,
    );
    if pair.0 == pair.1 {
        bail!("a pair is two nodes; which there are: pgaa-agent nodes");
    }
    Ok(Some(pair))
}
