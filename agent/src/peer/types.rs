//! What agents ask one another, in the words of the rest of the program.
//!
//! Must not know the wire: `convert` does.

use crate::trust::{Keyring, TokenEntry, TokenId, Tokens};
use pgaa_core::clock::pair::Instants;
use pgaa_core::founding::{Hello, Request, Response};
use pgaa_core::ids::{LineageId, Name, NodeId};
use pgaa_core::join::{LeaseAnswer, LeaseAsk, StepAnswer, StepAsk};
use pgaa_core::roster::{Roster, Tombstone};
use pgaa_core::rows::{Mended, Moment, Referrers, Repair, RowValues, Seen};
use pgaa_core::verify::{Definition, Digest, Key, Orphans, PieceName, Pieces, Range, RowHash};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// A peer understood, and says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A stable word for programs: "buried", "not_ready", "wrong_token".
    pub code: String,
    /// For people, with the next step.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: &str, message: &str) -> Refusal {
        Refusal {
            code: code.to_owned(),
            message: message.to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// The one question of a pairing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A question of the founding protocol.
    Founding(Request),
    /// Make me a member.
    Enrol {
        /// Who asks.
        hello: Hello,
        /// The key to certify, PKCS #10 in DER.
        csr_der: Vec<u8>,
    },
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a question of the founding protocol.
    Founding(Response),
    /// You are a member.
    Enrolled(Enrolled),
}

/// What makes a node a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its certificate.
    pub certificate_der: Vec<u8>,
    /// The cluster's CA.
    pub ca_der: Vec<u8>,
    /// The gossip keys.
    pub keyring: Keyring,
    /// Who belongs to the cluster.
    pub roster: Roster,
}

/// Answers nodes that have proven the join token. `from` is the proven UUID; a question that
/// speaks for another one never arrives here.
#[tonic::async_trait]
pub trait PairingHost: Send + Sync + 'static {
    /// The tokens that may be proven.
    fn tokens(&self) -> &Tokens;

    /// The cluster's name in the configuration.
    fn cluster_name(&self) -> &Name;

    /// Answers a question of the founding protocol.
    async fn founding(&self, from: NodeId, request: Request) -> Response;

    /// Makes `from` a member.
    async fn enrol(
        &self,
        from: NodeId,
        token: &TokenId,
        hello: Hello,
        csr_der: &[u8],
    ) -> Result<Enrolled, Refusal>;
}

/// One user table, as another member compares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogTable {
    /// Qualified name.
    pub name: String,
    /// Digest of its structure.
    pub structure: u64,
    /// Does it have a primary key?
    pub primary_key: bool,
}

/// A member's user tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogAnswer {
    /// Digest over all of them.
    pub digest: u64,
    /// The tables.
    pub tables: Vec<CatalogTable>,
}

/// A proposal to bury a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetProposal {
    /// Whom.
    pub target: NodeId,
    /// The last link of the lineage this continues; `None` for the first.
    pub parent: Option<LineageId>,
    /// The new link.
    pub link: LineageId,
    /// What stays of it.
    pub tombstone: Tombstone,
    /// `false` asks for consent, `true` makes it so.
    pub commit: bool,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetAnswer {
    /// May it be done?
    pub consent: bool,
    /// Does the target answer this member?
    pub target_answers: bool,
    /// Why not, for people.
    pub reason: String,
}

/// The CA, with its key. No `Debug`: it holds the key.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityAnswer {
    /// The key, PKCS #8 in DER.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// The CA's certificate.
    pub ca_der: Vec<u8>,
}

/// What a member asks another to compare a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareAsk {
    /// Hash a range.
    Digest(Range),
    /// The key of a row in a range, by its number from 1.
    Bound(Range, u64),
    /// The rows of a small range.
    Rows(Range),
    /// The rows with these keys.
    Look(Vec<Key>),
    /// Write a heartbeat.
    Beat,
    /// Tell the heartbeats that have arrived.
    Heartbeats,
    /// Pieces of the structure behind one of them: of these tables, or of all.
    Pieces(Vec<String>, Option<PieceName>),
    /// These pieces, with so many characters of their definitions.
    Definitions(Vec<PieceName>, u32),
    /// Rows of a range that refer to nothing.
    Orphans(Range),
    /// Those of these rows that do.
    OrphansAmong(Vec<Key>),
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareAnswer {
    /// A number that is equal where columns and key are, and the hashes.
    Digest(i64, Digest),
    /// The key, where the range has so many rows.
    Bound(Option<Key>),
    /// Rows by key.
    Rows(BTreeMap<Key, RowHash>),
    /// The number of the heartbeat.
    Beat(u64),
    /// The newest number of each node.
    Heartbeats(BTreeMap<NodeId, u64>),
    /// Pieces with their hashes, and whether there are more.
    Pieces(Pieces),
    /// Pieces as far as they are there.
    Definitions(BTreeMap<PieceName, Definition>),
    /// Rows that refer to nothing, by foreign key.
    Orphans(Vec<Orphans>),
}

/// What a member asks another of rows that may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckAsk {
    /// What it knows of these keys.
    Look(Vec<Key>),
    /// All keys that begin like these.
    Begins(Vec<Key>),
    /// The values of these versions.
    Values(Vec<(Key, u32)>),
    /// Mend these rows.
    Mend(Vec<Repair>),
    /// Which rows refer to the one with this key.
    Referrers(Key),
}

/// The answer to it, in the order of what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckAnswer {
    /// What it knows, and when it looked.
    Seen(Moment, Vec<Seen>),
    /// The keys.
    Keys(BTreeSet<Key>),
    /// The values, as far as the versions are still there.
    Values(Vec<Option<RowValues>>),
    /// What came of the repairs.
    Mended(Vec<Mended>),
    /// The rows that refer to it.
    Referrers(Vec<Referrers>),
}

/// What a node says of the process that speaks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Random for each start of an agent: two machines with one identity have two of them.
    pub run: u64,
    /// Where it is reached.
    pub at: SocketAddr,
}

/// Answers members. Who calls was proven by the connection, and `admits` was asked first.
#[tonic::async_trait]
pub trait MeshHost: Send + Sync + 'static {
    /// May this node call at all? Asked on every call.
    fn admits(&self, from: NodeId) -> Result<(), Refusal>;

    /// Takes the offered records; answers with those the caller has older or not at all, and
    /// with the nodes whose records are wanted from it.
    async fn exchange(
        &self,
        from: NodeId,
        have: BTreeMap<NodeId, u64>,
        offer: Roster,
    ) -> Result<(Roster, Vec<NodeId>), Refusal>;

    /// The user tables.
    async fn catalog(&self) -> Result<CatalogAnswer, Refusal>;

    /// This node's clocks, now.
    fn instants(&self) -> Instants;

    /// Considers, or carries out, a burial.
    async fn propose_forget(&self, from: NodeId, proposal: ForgetProposal) -> ForgetAnswer;

    /// Joins what two members know of tokens.
    async fn exchange_tokens(
        &self,
        from: NodeId,
        theirs: BTreeMap<TokenId, TokenEntry>,
    ) -> Result<BTreeMap<TokenId, TokenEntry>, Refusal>;

    /// The CA's key, for founding and ready members only.
    async fn authority(&self, from: NodeId) -> Result<AuthorityAnswer, Refusal>;

    /// A joiner's lease.
    async fn lease(&self, from: NodeId, ask: LeaseAsk) -> Result<LeaseAnswer, Refusal>;

    /// One step of a join.
    async fn join_step(&self, from: NodeId, ask: StepAsk) -> Result<StepAnswer, Refusal>;

    /// Hashes rows of a table, or does this node's part of a fence.
    async fn compare(&self, table: &str, ask: CompareAsk) -> Result<CompareAnswer, Refusal>;

    /// Looks at rows that may differ, or mends them.
    async fn check_rows(&self, table: &str, ask: CheckAsk) -> Result<CheckAnswer, Refusal>;

    /// Answers with the run of this agent. Refuses a claim when another run of the same node answers
    /// where that node was last known to be.
    async fn vouch(&self, from: NodeId, claim: Option<Claim>) -> Result<u64, Refusal>;

    /// `from` is alive and started its agent so often; answers with the same of this node.
    async fn ping(&self, from: NodeId, generation: u64) -> u64;
}
