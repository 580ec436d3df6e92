//! Answers other members. Who calls was proven by the connection.

use super::node::Node;
use super::twins;
use crate::events::Severity;
use crate::peer::{
    AuthorityAnswer, CatalogAnswer, CatalogTable, CheckAnswer, CheckAsk, Claim, CompareAnswer,
    CompareAsk, ForgetAnswer, ForgetProposal, MeshHost, Refusal,
};
use crate::trust::{TokenEntry, TokenId};
use pgaa_core::clock::pair::Instants;
use pgaa_core::ids::NodeId;
use pgaa_core::join::{LeaseAnswer, LeaseAsk, StepAnswer, StepAsk};
use pgaa_core::roster::Roster;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The answers of one agent.
pub struct Answers(pub Arc<Node>);

impl Answers {
    fn roster(&self) -> Result<Roster, Refusal> {
        let text = "this node is in no cluster yet";
        self.0
            .knowledge
            .roster()
            .ok_or_else(|| Refusal::new("not_a_member", text))
    }
}

#[tonic::async_trait]
impl MeshHost for Answers {
    fn admits(&self, from: NodeId) -> Result<(), Refusal> {
        let roster = self.roster()?;
        if self.0.knowledge.life().copied {
            let text = "this machine is a copy of the node that was meant, and stays apart";
            return Err(Refusal::new("apart", text));
        }
        if roster.tombstones.contains_key(&from) {
            let text = "the mesh has forgotten this node; it can only come back as a new one";
            return Err(Refusal::new("buried", text));
        }
        self.0.knowledge.note_answer(from, self.0.clocks.mono());
        Ok(())
    }

    async fn exchange(
        &self,
        from: NodeId,
        have: BTreeMap<NodeId, u64>,
        mut offer: Roster,
    ) -> Result<(Roster, Vec<NodeId>), Refusal> {
        twins::sift(&self.0, from, &mut offer).await?;
        let now = self.0.clocks.now();
        self.0
            .knowledge
            .merge(&offer, now)
            .map_err(|error| Refusal::new("parted", &error.to_string()))?;
        let mut roster = self.roster()?;
        let older = |node: &NodeId, version: u64| {
            roster
                .records
                .get(node)
                .is_none_or(|known| known.version < version)
                && !roster.tombstones.contains_key(node)
                && *node != self.0.id()
        };
        let want = have
            .iter()
            .filter(|(n, v)| older(n, **v))
            .map(|(n, _)| *n)
            .collect();
        roster.records.retain(|node, record| {
            have.get(node)
                .is_none_or(|version| *version < record.version)
        });
        Ok((roster, want))
    }

    async fn catalog(&self) -> Result<CatalogAnswer, Refusal> {
        let facts = self.0.last_facts();
        let facts = facts.ok_or_else(|| Refusal::new("unknown", "PostgreSQL does not answer"))?;
        let tables = facts.tables.iter().filter(|table| table.replicable);
        Ok(CatalogAnswer {
            digest: facts.catalog,
            tables: tables
                .map(|table| CatalogTable {
                    name: table.name.clone(),
                    structure: table.structure,
                    primary_key: table.primary_key,
                })
                .collect(),
        })
    }

    fn instants(&self) -> Instants {
        self.0.clocks.instants()
    }

    async fn propose_forget(&self, _from: NodeId, proposal: ForgetProposal) -> ForgetAnswer {
        super::membership::consider_forget(&self.0, &proposal)
    }

    async fn exchange_tokens(
        &self,
        _from: NodeId,
        theirs: BTreeMap<TokenId, TokenEntry>,
    ) -> Result<BTreeMap<TokenId, TokenEntry>, Refusal> {
        self.0
            .tokens
            .merge(&theirs)
            .map_err(|error| Refusal::new("store", &error.to_string()))?;
        Ok(self.0.tokens.share())
    }

    async fn authority(&self, from: NodeId) -> Result<AuthorityAnswer, Refusal> {
        let roster = self.roster()?;
        // Whom the decree names has proven the token to the founder and is about to be ready.
        let founding = roster.members().contains(&from) && roster.decree.member(from).is_some();
        let ready = roster
            .records
            .get(&from)
            .is_some_and(|record| record.state == pgaa_core::state::NodeState::Ready);
        if !ready && !founding {
            let text = "the CA's key is given to founding and ready members only";
            return Err(Refusal::new("not_ready", text));
        }
        let parts = self
            .0
            .with_authority(|a| (a.key_pkcs8(), a.ca_der().to_vec()));
        let (key_pkcs8, ca_der) = parts
            .ok_or_else(|| Refusal::new("no_authority", "this member does not hold the CA"))?;
        self.0.event(
            Severity::Info,
            "authority_given",
            format!("the CA's key was given to {}", roster.name_of(from)),
        );
        Ok(AuthorityAnswer { key_pkcs8, ca_der })
    }

    async fn lease(&self, from: NodeId, ask: LeaseAsk) -> Result<LeaseAnswer, Refusal> {
        super::lease::answer(&self.0, from, ask).await
    }

    async fn join_step(&self, from: NodeId, ask: StepAsk) -> Result<StepAnswer, Refusal> {
        super::lease::step(&self.0, from, ask).await
    }

    async fn compare(&self, table: &str, ask: CompareAsk) -> Result<CompareAnswer, Refusal> {
        let answer = super::verify::answer(&self.0, table, ask).await;
        answer.map_err(|error| Refusal::new("compare", &format!("{error:#}")))
    }

    async fn check_rows(&self, table: &str, ask: CheckAsk) -> Result<CheckAnswer, Refusal> {
        let answer = super::rows::answer(&self.0, table, ask).await;
        answer.map_err(|error| Refusal::new("check", &format!("{error:#}")))
    }

    async fn vouch(&self, from: NodeId, claim: Option<Claim>) -> Result<u64, Refusal> {
        if let Some(claim) = claim {
            twins::judge(&self.0, from, claim).await?;
        }
        Ok(self.0.run)
    }

    async fn ping(&self, _from: NodeId, _generation: u64) -> u64 {
        self.0.identity.generation()
    }
}

/// The members other than `except`.
#[must_use]
pub fn others(roster: &Roster, except: NodeId) -> BTreeSet<NodeId> {
    roster
        .members()
        .into_iter()
        .filter(|node| *node != except)
        .collect()
}
