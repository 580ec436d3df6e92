//! Leaving and forgetting: the only ways out of the roster.
//!
//! A node is buried by a proposal that continues the lineage every asked member knows: two
//! operators who forget at the same moment can't part the membership, one of them is told to
//! try again.

use super::mesh_host::others;
use super::node::Node;
use crate::events::Severity;
use crate::peer::{ForgetAnswer, ForgetProposal};
use anyhow::{Context, bail};
use pgaa_core::ids::{LineageId, NodeId};
use pgaa_core::observed::Reach;
use pgaa_core::roster::{Roster, Tombstone};
use std::net::SocketAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Judges a proposal of another member, and obeys it when it is to be made so.
#[must_use]
pub fn consider_forget(node: &Node, proposal: &ForgetProposal) -> ForgetAnswer {
    let refuse = |reason: String| ForgetAnswer {
        consent: false,
        target_answers: false,
        reason,
    };
    let Some(roster) = node.knowledge.roster() else {
        return refuse("this node is in no cluster".to_owned());
    };
    if roster.tombstones.contains_key(&proposal.target) {
        return ForgetAnswer {
            consent: true,
            target_answers: false,
            reason: String::new(),
        };
    }
    if roster.lineage.last().copied() != proposal.parent {
        return refuse("another node was forgotten meanwhile; try again".to_owned());
    }
    let reach = node.knowledge.reach(node.clocks.mono());
    let target_answers = reach.get(&proposal.target) == Some(&Reach::Up);
    if proposal.commit
        && let Err(error) = bury(node, proposal)
    {
        return refuse(format!("{error:#}"));
    }
    ForgetAnswer {
        consent: true,
        target_answers,
        reason: String::new(),
    }
}

fn bury(node: &Node, proposal: &ForgetProposal) -> anyhow::Result<()> {
    let tombstone = proposal.tombstone.clone();
    let (name, left) = (tombstone.name.clone(), tombstone.left);
    let link = proposal.link;
    node.knowledge
        .amend(|roster| roster.bury(proposal.target, tombstone, link))?;
    let how = if left { "has left" } else { "was forgotten" };
    node.event(
        Severity::Warning,
        "buried",
        format!("{name} ({}) {how}", proposal.target),
    );
    Ok(())
}

/// Finds a member by name or UUID; an ambiguous name is an error that lists the UUIDs.
pub fn find(roster: &Roster, wanted: &str) -> anyhow::Result<NodeId> {
    if let Ok(node) = wanted.parse::<NodeId>() {
        if roster.members().contains(&node) {
            return Ok(node);
        }
        bail!("no member has the UUID {node}; see pgaa-agent nodes");
    }
    let members = roster.members().into_iter();
    let named: Vec<NodeId> = members.filter(|n| roster.name_of(*n) == wanted).collect();
    match named.as_slice() {
        [one] => Ok(*one),
        [] => bail!("no member is called {wanted:?}; see pgaa-agent nodes"),
        several => {
            let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
            bail!(
                "{wanted:?} is the name of {}; give the UUID",
                ids.join(" and ")
            )
        }
    }
}

/// Forgets a dead member, from here, everywhere.
pub async fn forget(node: &Arc<Node>, target: NodeId, force: bool) -> anyhow::Result<String> {
    let roster = node
        .knowledge
        .roster()
        .context("this node is in no cluster")?;
    if target == node.id() {
        bail!("this is the node itself: pgaa-agent leave");
    }
    let proposal = propose(&roster, target, false)?;
    let asked = others(&roster, node.id());
    let answers = ask_all(node, &roster, &asked, target, &proposal).await;
    let own = node.knowledge.reach(node.clocks.mono()).get(&target) == Some(&Reach::Up);
    let name = roster.name_of(target);
    if own || answers.iter().any(|answer| answer.target_answers) {
        bail!("{name} answers: run pgaa-agent leave there, or stop its agent and PostgreSQL first");
    }
    if let Some(refusal) = answers.iter().find(|answer| !answer.consent) {
        bail!("{}", refusal.reason);
    }
    // This node and the target count as members, too.
    let reached = answers.len() + 1;
    let members = asked.len() + 1;
    if 2 * reached <= members && !force {
        bail!(
            "only {reached} of {members} members are in reach: if the others are only cut off, \
             they would go on without this side. Wait for them, or repeat with --force"
        );
    }
    commit(node, &roster, &asked, target, proposal).await?;
    Ok(format!(
        "{name} ({target}) is forgotten; its slots and subscriptions are being removed"
    ))
}

/// Leaves the mesh: this node buries itself everywhere. The gate is shut and everything is
/// drained before (see `leave`).
pub async fn announce_leaving(node: &Arc<Node>, unsettled: bool) -> anyhow::Result<()> {
    let roster = node
        .knowledge
        .roster()
        .context("this node is in no cluster")?;
    let mut proposal = propose(&roster, node.id(), true)?;
    proposal.tombstone.unsettled = unsettled;
    let asked = others(&roster, node.id());
    commit(node, &roster, &asked, node.id(), proposal).await
}

fn propose(roster: &Roster, target: NodeId, left: bool) -> anyhow::Result<ForgetProposal> {
    let epoch = roster
        .epoch(target)
        .context("nothing is known of that node")?;
    let name = pgaa_core::ids::Name::new(&roster.name_of(target))?;
    let ordinal = roster
        .records
        .get(&target)
        .and_then(|record| record.ordinal)
        .or_else(|| roster.decree.member(target).map(|member| member.ordinal));
    Ok(ForgetProposal {
        target,
        parent: roster.lineage.last().copied(),
        link: LineageId(Uuid::new_v4()),
        tombstone: Tombstone {
            name,
            epoch,
            ordinal,
            left,
            unsettled: false,
        },
        commit: false,
    })
}

fn address(roster: &Roster, node: NodeId) -> Option<SocketAddr> {
    roster
        .records
        .get(&node)
        .map(|record| record.endpoints.grpc)
}

async fn ask_all(
    node: &Arc<Node>,
    roster: &Roster,
    asked: &std::collections::BTreeSet<NodeId>,
    target: NodeId,
    proposal: &ForgetProposal,
) -> Vec<ForgetAnswer> {
    let mut running = tokio::task::JoinSet::new();
    for member in asked.iter().filter(|member| **member != target) {
        let Some(address) = address(roster, *member) else {
            continue;
        };
        let (node, proposal, member) = (Arc::clone(node), proposal.clone(), *member);
        running.spawn(async move { node.peers.propose_forget(member, address, proposal).await });
    }
    let mut answers = Vec::new();
    while let Some(finished) = running.join_next().await {
        if let Ok(Ok(answer)) = finished {
            answers.push(answer);
        }
    }
    answers
}

async fn commit(
    node: &Arc<Node>,
    roster: &Roster,
    asked: &std::collections::BTreeSet<NodeId>,
    target: NodeId,
    mut proposal: ForgetProposal,
) -> anyhow::Result<()> {
    proposal.commit = true;
    bury(node, &proposal)?;
    // Members that are not reached now learn of it with the next exchange of records.
    let _ = ask_all(node, roster, asked, target, &proposal).await;
    Ok(())
}
