//! Machines that were copied: two that have the identity of one node. The one that the mesh knows
//! stays what it is; the other is refused, and sets itself apart before it has said a word.
//!
//! An address may change. What tells a copy from a move is that the address known before still
//! answers, and that another run of the agent answers there.

use super::node::Node;
use crate::events::Severity;
use crate::peer::{Claim, PeerError, Refusal};
use log::{info, warn};
use pgaa_core::ids::NodeId;
use pgaa_core::roster::Roster;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What a refusal of a copy is called between agents.
pub const TWIN: &str = "twin";

/// How long the address known before may take to answer. Shorter than any call in which it is
/// asked; longer than three trips over the widest ocean.
const ANSWER_MAX: Duration = Duration::from_millis(700);

/// How long an agent that has started waits for a member that vouches for it. When none answers
/// there is nobody to disturb; whoever comes later looks again, at its record.
const VOUCH_MAX: Duration = Duration::from_secs(2);

/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Does `work` while this node may speak for its identity, and never again once it may not.
pub async fn while_vouched(node: Arc<Node>, work: impl Future<Output = ()>) {
    let mut vouched = node.vouched.subscribe();
    if vouched.wait_for(|vouched| *vouched).await.is_ok() {
        tokio::select! {
            () = work => return,
            _ = vouched.wait_for(|vouched| !*vouched) => {}
        }
    }
    std::future::pending().await
}

/// Asks the members whether this identity answers anywhere else. A node that is in no mesh has
/// nobody to ask; founding finds copies among those by itself.
pub async fn prove(node: Arc<Node>) {
    if node.knowledge.life().copied {
        warn!("this machine is a copy of another member and stays apart; see pgaa-agent status");
        std::future::pending::<()>().await;
    }
    let others = node.knowledge.others();
    if others.is_empty() || ask_until_vouched(&node, &others).await {
        node.vouched.send_replace(true);
    }
    std::future::pending().await
}

/// Returns whether this node may go on.
async fn ask_until_vouched(node: &Arc<Node>, others: &[(NodeId, SocketAddr)]) -> bool {
    let mut address = node.address.subscribe();
    // Without an address there is no network, and nobody who could be disturbed.
    if address.wait_for(Option::is_some).await.is_err() {
        return false;
    }
    match timeout(VOUCH_MAX, first_answer(node, others)).await {
        Ok(Ok(())) => true,
        Ok(Err(refusal)) => {
            set_apart(node, &refusal);
            false
        }
        Err(_) => {
            info!("no member has vouched for this node in time: it goes on");
            true
        }
    }
}

/// Asks until somebody answers.
async fn first_answer(node: &Arc<Node>, others: &[(NodeId, SocketAddr)]) -> Result<(), Refusal> {
    loop {
        if let Some(endpoints) = node.endpoints() {
            let at = endpoints.grpc;
            let answer = ask_all(node, others, Claim { run: node.run, at }).await;
            if let Some(answer) = answer {
                return answer;
            }
        }
        sleep(ASK_AGAIN).await;
    }
}

/// The first answer of any member: it vouches, or it knows a twin. `None` when none answers.
async fn ask_all(
    node: &Arc<Node>,
    others: &[(NodeId, SocketAddr)],
    claim: Claim,
) -> Option<Result<(), Refusal>> {
    let mut asked = JoinSet::new();
    for (member, address) in others.iter().copied() {
        let node = Arc::clone(node);
        asked.spawn(async move { node.peers.vouch(member, address, Some(claim)).await });
    }
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(_)) => return Some(Ok(())),
            Ok(Err(PeerError::Refused { refusal, .. })) if refusal.code == TWIN => {
                return Some(Err(refusal));
            }
            // Whatever else it has against this node is for the exchange of records to say.
            Ok(Err(PeerError::Refused { .. })) => return Some(Ok(())),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    None
}

/// Keeps this machine out of the mesh, for good: what it holds is what another node held when it
/// was copied.
pub fn set_apart(node: &Node, refusal: &Refusal) {
    node.vouched.send_replace(false);
    let reason = refusal.message.clone();
    let kept = node.knowledge.live(|life| {
        life.quarantined = Some(reason.clone());
        life.copied = true;
    });
    if let Err(error) = kept {
        warn!("that this machine is a copy could not be stored: {error}");
    }
    node.event(Severity::Critical, "copied", reason);
}

/// Judges a claim of `from`: is it the run that answers where `from` was last known to be?
pub async fn judge(node: &Node, from: NodeId, claim: Claim) -> Result<(), Refusal> {
    let Some((known, name)) = known(node, from).filter(|(known, _)| *known != claim.at) else {
        return Ok(());
    };
    match run_at(node, from, known).await {
        Some(run) if run != claim.run => Err(refuse(node, &name, known, claim.at)),
        Some(_) | None => Ok(()),
    }
}

/// Takes the records out of an offer that would move a member away from where it still answers.
/// Refuses the offer when its sender is the copy.
pub async fn sift(node: &Node, from: NodeId, offer: &mut Roster) -> Result<(), Refusal> {
    let offered = offer.records.values();
    let moved: Vec<(NodeId, SocketAddr)> = offered
        .map(|record| (record.node, record.endpoints.grpc))
        .filter(|(member, at)| known(node, *member).is_some_and(|(known, _)| known != *at))
        .collect();
    for (member, at) in moved {
        let Some((before, name)) = known(node, member) else {
            continue;
        };
        let (there, here) = tokio::join!(run_at(node, member, before), run_at(node, member, at));
        let Some(there) = there else {
            continue;
        };
        if here == Some(there) {
            continue;
        }
        offer.records.remove(&member);
        if member == from && here.is_some() {
            return Err(refuse(node, &name, before, at));
        }
    }
    Ok(())
}

fn refuse(node: &Node, name: &str, known: SocketAddr, at: SocketAddr) -> Refusal {
    let (known, at) = (known.ip(), at.ip());
    let text = format!(
        "{name} answers at {known}, and the machine at {at} has its identity: it is a copy"
    );
    node.event(Severity::Warning, "copy_refused", text.clone());
    Refusal::new(TWIN, &text)
}

/// Where a member is by its record here, and what it is called.
fn known(node: &Node, member: NodeId) -> Option<(SocketAddr, String)> {
    if member == node.id() {
        return None;
    }
    let known = node.knowledge.with_roster(|roster| {
        let record = roster.records.get(&member)?;
        Some((record.endpoints.grpc, record.name.to_string()))
    });
    known.flatten()
}

/// Which run of an agent answers as `member` at an address, if any does.
async fn run_at(node: &Node, member: NodeId, address: SocketAddr) -> Option<u64> {
    let asked = timeout(ANSWER_MAX, node.peers.vouch(member, address, None));
    asked.await.ok()?.ok()
}
