//! The two Unix sockets between an agent and its command line.
//!
//! `agent.sock` can do everything and is for root and the agent's own user; `read.sock` only
//! tells, and is for the group `pgaa`. This module carries requests; what they do is up to the
//! [`ControlHost`].

pub mod client;
mod listener;
mod server;

pub use listener::SocketError;
pub use server::serve;

use crate::events::Events;
use pgaa_core::backup::BackupKind;
use pgaa_core::conflicts::report::{self as conflicts, Query};
use pgaa_core::ids::{BadId, NodeId};
use pgaa_core::status::StatusReport;
use pgaa_core::verify::{News, Wish};
use pgaa_proto::v1 as wire;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The group whose members may read the status.
pub const READERS_GROUP: &str = "pgaa";

/// What the control sockets are a way into.
#[tonic::async_trait]
pub trait ControlHost: Send + Sync + 'static {
    /// The newest report, and each one after it.
    fn status(&self) -> watch::Receiver<Arc<StatusReport>>;

    /// The journal of events.
    fn events(&self) -> &Events;

    /// Does what an operator asks for, or says why not and what to do instead.
    async fn act(&self, act: Act) -> ActOutcome;

    /// Compares tables on all nodes. Ends when nobody reads the news any more.
    fn verify(&self, wish: Wish) -> anyhow::Result<mpsc::Receiver<News>>;

    /// The conflicts that this node has met, or why they can't be told.
    async fn conflicts(&self, query: Query) -> anyhow::Result<conflicts::Report>;
}

/// What an operator can ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Mint a join token.
    TokenCreate {
        /// How long it shall be valid; the agent's default when `None`.
        ttl: Option<Duration>,
    },
    /// List the tokens, without their secrets.
    TokenList,
    /// End a token before its time.
    TokenRevoke {
        /// The token's id.
        id: String,
    },
    /// List the sequences that feed keys.
    SequencesList,
    /// Give sequences a step and an offset of this node's own.
    SequencesFix {
        /// These; all that need it when empty.
        sequences: Vec<String>,
        /// Only tell what would be done.
        dry_run: bool,
    },
    /// Drain, and leave the mesh.
    Leave {
        /// Without waiting for nodes that can't be reached.
        force: bool,
    },
    /// Remove a dead node from the mesh for ever.
    Forget {
        /// Its name or UUID.
        node: String,
        /// Although most of the roster is out of reach.
        force: bool,
    },
    /// Restart PostgreSQL.
    RestartPostgres,
    /// Found the cluster without the nodes that are missing.
    FoundOnlyMe {
        /// To whom this node has promised itself, as the operator sees it: what must be so.
        promise_holder: Option<NodeId>,
    },
    /// Show to whom this node has promised itself.
    PromiseShow,
    /// Go past a transaction that can't be applied here.
    SkipTransaction {
        /// Whose it is, by name or UUID.
        node: String,
        /// The LSN of its commit, or its number.
        transaction: String,
    },
    /// Take back a promise to a candidate that is destroyed for ever.
    PromiseRelease {
        /// The candidate.
        candidate: NodeId,
    },
    /// Tell who owns the backups, or have another node own them.
    BackupOwner {
        /// Its name or UUID.
        move_to: Option<String>,
    },
    /// List what the repository of the backups holds.
    BackupList,
    /// Take a backup now.
    BackupRun {
        /// Which kind.
        kind: BackupKind,
    },
    /// Give up what this node holds, which is set apart, and join anew.
    Rejoin {
        /// Its name: whoever asks knows whom.
        node: String,
    },
}

/// How an act went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActOutcome {
    /// Was it done?
    pub done: bool,
    /// For people, with the next step when it was refused.
    pub text: String,
    /// The same for programs; `null` when there is nothing beside the text.
    pub json: serde_json::Value,
}

impl ActOutcome {
    /// It was done.
    #[must_use]
    pub fn done(text: impl Into<String>) -> ActOutcome {
        ActOutcome {
            done: true,
            text: text.into(),
            json: serde_json::Value::Null,
        }
    }

    /// It was not, for this reason; the text ends in the next step.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> ActOutcome {
        ActOutcome {
            done: false,
            text: text.into(),
            json: serde_json::Value::Null,
        }
    }

    /// With a document for programs.
    #[must_use]
    pub fn with_json(self, json: serde_json::Value) -> ActOutcome {
        ActOutcome { json, ..self }
    }
}

impl From<Act> for wire::ActRequest {
    fn from(act: Act) -> wire::ActRequest {
        use wire::act_request::Act as Wire;
        let act = match act {
            Act::TokenCreate { ttl } => Wire::TokenCreate(wire::TokenCreate {
                ttl_s: ttl.map_or(0, |ttl| ttl.as_secs()),
            }),
            Act::TokenList => Wire::TokenList(wire::TokenList {}),
            Act::TokenRevoke { id } => Wire::TokenRevoke(wire::TokenRevoke { id }),
            Act::SequencesList => Wire::SequencesList(wire::SequencesList {}),
            Act::SequencesFix { sequences, dry_run } => {
                Wire::SequencesFix(wire::SequencesFix { sequences, dry_run })
            }
            Act::Leave { force } => Wire::Leave(wire::LeaveMesh { force }),
            Act::Forget { node, force } => Wire::Forget(wire::ForgetNode { node, force }),
            Act::RestartPostgres => Wire::Restart(wire::RestartPostgres {}),
            Act::FoundOnlyMe { promise_holder } => Wire::FoundOnlyMe(wire::FoundOnlyMe {
                promise_holder: promise_holder
                    .map(|node| node.to_string())
                    .unwrap_or_default(),
            }),
            Act::PromiseShow => Wire::PromiseShow(wire::PromiseShow {}),
            Act::SkipTransaction { node, transaction } => {
                Wire::SkipTransaction(wire::SkipTransaction { node, transaction })
            }
            Act::PromiseRelease { candidate } => Wire::PromiseRelease(wire::PromiseRelease {
                candidate: candidate.to_string(),
            }),
            Act::BackupOwner { move_to } => Wire::BackupOwner(wire::BackupOwnerAct {
                move_to: move_to.unwrap_or_default(),
            }),
            Act::BackupList => Wire::BackupList(wire::BackupListAct {}),
            Act::BackupRun { kind } => Wire::BackupRun(wire::BackupRunAct {
                kind: kind.word().to_owned(),
            }),
            Act::Rejoin { node } => Wire::Rejoin(wire::Rejoin { node }),
        };
        wire::ActRequest { act: Some(act) }
    }
}

/// Reads an act; `Ok(None)` when the command line is newer than this agent and asks for one it
/// doesn't know.
fn read_act(request: wire::ActRequest) -> Result<Option<Act>, BadId> {
    use wire::act_request::Act as Wire;
    let Some(act) = request.act else {
        return Ok(None);
    };
    Ok(Some(match act {
        Wire::TokenCreate(wire::TokenCreate { ttl_s }) => Act::TokenCreate {
            ttl: (ttl_s > 0).then(|| Duration::from_secs(ttl_s)),
        },
        Wire::TokenList(_) => Act::TokenList,
        Wire::TokenRevoke(wire::TokenRevoke { id }) => Act::TokenRevoke { id },
        Wire::SequencesList(_) => Act::SequencesList,
        Wire::SequencesFix(wire::SequencesFix { sequences, dry_run }) => {
            Act::SequencesFix { sequences, dry_run }
        }
        Wire::Leave(wire::LeaveMesh { force }) => Act::Leave { force },
        Wire::Forget(wire::ForgetNode { node, force }) => Act::Forget { node, force },
        Wire::Restart(_) => Act::RestartPostgres,
        Wire::FoundOnlyMe(wire::FoundOnlyMe { promise_holder }) => {
            let named = !promise_holder.is_empty();
            Act::FoundOnlyMe {
                promise_holder: named.then(|| promise_holder.parse()).transpose()?,
            }
        }
        Wire::PromiseShow(_) => Act::PromiseShow,
        Wire::SkipTransaction(wire::SkipTransaction { node, transaction }) => {
            Act::SkipTransaction { node, transaction }
        }
        Wire::PromiseRelease(wire::PromiseRelease { candidate }) => Act::PromiseRelease {
            candidate: candidate.parse()?,
        },
        Wire::BackupOwner(wire::BackupOwnerAct { move_to }) => Act::BackupOwner {
            move_to: Some(move_to).filter(|name| !name.is_empty()),
        },
        Wire::BackupList(_) => Act::BackupList,
        Wire::BackupRun(wire::BackupRunAct { kind }) => {
            let known = BackupKind::ALL
                .into_iter()
                .find(|known| known.word() == kind);
            let Some(kind) = known else {
                return Ok(None);
            };
            Act::BackupRun { kind }
        }
        Wire::Rejoin(wire::Rejoin { node }) => Act::Rejoin { node },
    }))
}

#[cfg(test)]
mod tests;
