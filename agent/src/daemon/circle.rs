//! The members whose rows must be the same, and what is asked of all of them: for comparing whole
//! tables and for the row check.
//!
//! Must not know what the answers are for.

use super::node::Node;
use crate::peer::{CheckAnswer, CheckAsk, CompareAnswer, CompareAsk};
use futures_util::future::try_join_all;
use pgaa_core::ids::NodeId;
use pgaa_core::observed::Reach;
use pgaa_core::state::NodeState;
use pgaa_core::verify::Failure;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a heartbeat may take from any member to any other.
const FENCE_MAX: Duration = Duration::from_secs(60);

/// Between two looks at which heartbeats have arrived.
const FENCE_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
struct Member {
    node: NodeId,
    name: String,
    address: SocketAddr,
}

/// Members that are ready, or leave, and answer; this node first.
pub struct Circle<'a> {
    node: &'a Arc<Node>,
    members: Vec<Member>,
}

impl<'a> Circle<'a> {
    /// Who can be asked, and which members can't, and why.
    pub fn gather(node: &'a Arc<Node>) -> (Circle<'a>, Vec<String>) {
        let (mut members, mut left_out) = (Vec::new(), Vec::new());
        let Some(roster) = node.knowledge.roster() else {
            left_out.push("this node is in no cluster yet".to_owned());
            return (Circle { node, members }, left_out);
        };
        let reach = node.knowledge.reach(node.clocks.mono());
        for record in roster.records.values() {
            let name = record.name.to_string();
            let up = record.node == node.id() || reach.get(&record.node) == Some(&Reach::Up);
            if !matches!(record.state, NodeState::Ready | NodeState::Leaving) {
                left_out.push(format!("{name} is {}", record.state.word()));
            } else if !up {
                left_out.push(format!("{name} does not answer; see: pgaa-agent nodes"));
            } else {
                members.push(Member {
                    node: record.node,
                    name,
                    address: record.endpoints.grpc,
                });
            }
        }
        members.sort_by_key(|member| (member.node != node.id(), member.name.clone()));
        (Circle { node, members }, left_out)
    }

    /// The node that asks.
    pub fn node(&self) -> &'a Arc<Node> {
        self.node
    }

    /// Its UUID.
    pub fn me(&self) -> NodeId {
        self.node.id()
    }

    /// Is this a member that isn't asked?
    pub fn is_absent(&self, other: NodeId) -> bool {
        if self.members.iter().any(|member| member.node == other) {
            return false;
        }
        let members = self.node.knowledge.with_roster(|roster| roster.members());
        members.is_some_and(|members| members.contains(&other))
    }

    /// Who they are.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.node).collect()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        let names = self.members.iter().map(|member| member.name.clone());
        names.collect()
    }

    /// The name of one of them.
    pub fn name(&self, of: NodeId) -> String {
        let found = self.members.iter().find(|member| member.node == of);
        found.map_or_else(|| of.short(), |member| member.name.clone())
    }

    fn address(&self, of: NodeId) -> anyhow::Result<SocketAddr> {
        let found = self.members.iter().find(|member| member.node == of);
        let address = found.map(|member| member.address);
        address.ok_or_else(|| anyhow::anyhow!("it is no member"))
    }

    fn failed(&self, of: NodeId, error: &anyhow::Error) -> Failure {
        Failure(format!("{}: {error:#}", self.name(of)))
    }

    /// An answer that doesn't fit the question.
    pub fn unfit(&self, of: NodeId) -> Failure {
        let name = self.name(of);
        Failure(format!(
            "{name} answered something else than was asked; do both run the same version? \
             pgaa-agent nodes"
        ))
    }

    /// Asks one of them to compare.
    pub async fn compare(
        &self,
        of: NodeId,
        table: &str,
        ask: CompareAsk,
    ) -> Result<CompareAnswer, Failure> {
        let asked = async {
            if of == self.node.id() {
                return super::verify::answer(self.node, table, ask).await;
            }
            let address = self.address(of)?;
            Ok(self.node.peers.compare(of, address, (table, ask)).await?)
        };
        asked.await.map_err(|error| self.failed(of, &error))
    }

    /// Asks one of them about rows that may differ, or to mend them.
    pub async fn check(
        &self,
        of: NodeId,
        table: &str,
        ask: CheckAsk,
    ) -> Result<CheckAnswer, Failure> {
        let asked = async {
            if of == self.node.id() {
                return super::rows::answer(self.node, table, ask).await;
            }
            let address = self.address(of)?;
            Ok(self
                .node
                .peers
                .check_rows(of, address, (table, ask))
                .await?)
        };
        asked.await.map_err(|error| self.failed(of, &error))
    }

    async fn beats(&self) -> Result<BTreeMap<NodeId, u64>, Failure> {
        let beat = async |of: NodeId| {
            let CompareAnswer::Beat(number) = self.compare(of, "", CompareAsk::Beat).await? else {
                return Err(self.unfit(of));
            };
            Ok((of, number))
        };
        let beats = self.members.iter().map(|member| beat(member.node));
        Ok(try_join_all(beats).await?.into_iter().collect())
    }

    /// The first member, and whose heartbeat it lacks.
    async fn lacking(
        &self,
        beats: &BTreeMap<NodeId, u64>,
    ) -> Result<Option<(NodeId, NodeId)>, Failure> {
        for member in &self.members {
            let answer = self
                .compare(member.node, "", CompareAsk::Heartbeats)
                .await?;
            let CompareAnswer::Heartbeats(arrived) = answer else {
                return Err(self.unfit(member.node));
            };
            let late = |(node, number): &(&NodeId, &u64)| {
                arrived.get(*node).is_none_or(|have| have < *number)
            };
            if let Some((from, _)) = beats.iter().find(late) {
                return Ok(Some((member.node, *from)));
            }
        }
        Ok(None)
    }

    /// Returns when everything that was committed on any of them before the call has arrived on
    /// all of them.
    pub async fn fence(&self) -> Result<(), Failure> {
        let beats = self.beats().await?;
        let began = self.node.clocks.mono();
        while let Some((at, from)) = self.lacking(&beats).await? {
            if self.node.clocks.mono().since(began) > FENCE_MAX {
                return Err(Failure(format!(
                    "what {} writes takes more than {} s to {}, so rows that differ can't be told \
                     from rows on their way; see: pgaa-agent topology",
                    self.name(from),
                    FENCE_MAX.as_secs(),
                    self.name(at)
                )));
            }
            sleep(FENCE_LOOK).await;
        }
        Ok(())
    }
}
