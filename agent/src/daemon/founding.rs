//! Drives the founding machine: dials seeds, carries questions and answers, and turns a standing
//! into membership (CA and certificate, or enrolment).
//!
//! Must not decide who founds: `pgaa_core::founding` does.

use super::node::Node;
use crate::discovery::{Resolver, own_address};
use crate::events::Severity;
use crate::peer::{Answer, Ask, Enrolled};
use crate::trust::Authority;
use crate::trust::keyring::Keyring;
use anyhow::{Context, bail};
use log::{info, warn};
use pgaa_core::founding::{self, Hello, Standing};
use pgaa_core::ids::{ClusterId, NodeId};
use pgaa_core::life::Stage;
use pgaa_core::roster::{Decree, Roster};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Between two ticks that nothing wakes.
const TICK: Duration = Duration::from_millis(100);

/// Between two ticks of a member, whose founding is over: it still tells machines at the seeds,
/// which may have been made anew, that there is a cluster.
const TICK_OF_A_MEMBER: Duration = Duration::from_secs(5);

/// Between two looks at seeds that may change,
const RESOLVE_PERIOD: Duration = Duration::from_secs(5);

/// and between two such looks of a member.
const RESOLVE_PERIOD_OF_A_MEMBER: Duration = Duration::from_secs(60);

/// Between two attempts to enrol.
const ENROL_PAUSE: Duration = Duration::from_millis(100);

/// How long the founding token outlives the founding, unless an operator says otherwise.
const TOKEN_OUTLIVES: Duration = Duration::from_secs(24 * 3600);

type Reply = (founding::Ask, Result<(NodeId, founding::Response), String>);

/// Runs until the task is dropped.
pub async fn run(node: Arc<Node>) {
    let network = &node.settings.network;
    let mut resolver = Resolver::new(node.settings.seeds.clone(), network.grpc_port);
    let mut asking: JoinSet<Reply> = JoinSet::new();
    let mut resolved_at = None;
    let (mut pause, mut resolve_period) = (TICK, RESOLVE_PERIOD);
    loop {
        let now = node.clocks.mono();
        if resolved_at.is_none_or(|at| now.since(at) >= resolve_period) {
            resolve(&node, &mut resolver).await;
            resolved_at = Some(now);
        }
        let ticked = tick(&node, &mut asking).await;
        note_problem(&node, ticked.as_ref().err());
        match ticked {
            Ok(true) => {
                (pause, resolve_period) = (TICK_OF_A_MEMBER, RESOLVE_PERIOD_OF_A_MEMBER);
            }
            Ok(false) => {}
            Err(_) => tokio::time::sleep(ENROL_PAUSE).await,
        }
        tokio::select! {
            Some(Ok(reply)) = asking.join_next(), if !asking.is_empty() => take(&node, reply),
            () = node.founding_changed.notified() => {}
            () = node.clocks.pulse(pause) => {}
        }
    }
}

/// Keeps what stands in the way for status, and tells it once.
fn note_problem(node: &Node, error: Option<&anyhow::Error>) {
    let problem = error.map(|error| format!("{error:#}"));
    let changed = node.founding_problem.send_if_modified(|known| {
        let changed = *known != problem;
        known.clone_from(&problem);
        changed
    });
    if let Some(text) = problem.filter(|_| changed) {
        node.event(Severity::Warning, "founding_failed", text);
    }
}

/// Finds the seeds' addresses, and this node's own.
async fn resolve(node: &Node, resolver: &mut Resolver) {
    let (addresses, errors) = resolver.resolve().await;
    for error in errors {
        warn!("{error}");
    }
    if node.settings.network.advertise.is_none() {
        let own = own_address(&addresses);
        node.address.send_if_modified(|known| {
            let changed = own.is_some() && *known != own;
            if changed {
                *known = own;
            }
            changed
        });
    }
    node.founding().set_resolved(addresses);
}

/// One tick. True when there is nothing left to do.
async fn tick(node: &Arc<Node>, asking: &mut JoinSet<Reply>) -> anyhow::Result<bool> {
    let Some(hello) = node.hello() else {
        return Ok(false);
    };
    let now = node.clocks.mono();
    let (step, standing) = {
        let answering = node.knowledge.answering(now);
        let mut machine = node.founding();
        machine.set_me(hello.clone());
        machine.set_answering(answering);
        let step = machine.tick(now, &mut Uuid::new_v4);
        if step.persist {
            let stored = node.store.set_founding(machine.durable());
            stored.context("the founding state can't be stored")?;
            machine.saved();
        }
        (step, machine.standing(now))
    };
    for ask in step.asks {
        asking.spawn(carry(Arc::clone(node), ask));
    }
    settle(node, standing).await
}

/// Turns a standing into membership. True when the founding is over for this node.
async fn settle(node: &Arc<Node>, standing: Standing) -> anyhow::Result<bool> {
    let member = node.knowledge.with_roster(|_| ()).is_some();
    match standing {
        Standing::Founder(decree) => {
            if !member {
                found(node, decree)?;
            }
            Ok(node.founding().unaccepted().is_empty())
        }
        Standing::Decreed(decree) => {
            if !member {
                let via = addresses_of(node, &decree);
                enrol(node, &via, decree.cluster).await?;
            }
            Ok(true)
        }
        Standing::ClusterFound { cluster, via } => {
            if !member {
                enrol(node, &via, cluster).await?;
            }
            Ok(true)
        }
        Standing::Member(_) => Ok(true),
        Standing::Discovering
        | Standing::Forming
        | Standing::Candidate { .. }
        | Standing::Promised { .. }
        | Standing::Quarantined { .. } => Ok(false),
    }
}

/// Members named by the decree, the founder first: it holds the CA.
fn addresses_of(node: &Node, decree: &Decree) -> Vec<(NodeId, SocketAddr)> {
    let machine = node.founding();
    let others = decree
        .members
        .iter()
        .map(|m| m.node)
        .filter(|n| *n != decree.founder);
    std::iter::once(decree.founder)
        .chain(others)
        .filter_map(|node| Some((node, machine.address_of(node)?)))
        .collect()
}

async fn carry(node: Arc<Node>, ask: founding::Ask) -> Reply {
    let answer = node
        .pairing
        .ask(ask.to, Ask::Founding(ask.request.clone()))
        .await;
    let result = match answer {
        Ok((from, Answer::Founding(response))) => Ok((from, response)),
        Ok((_, Answer::Enrolled(_))) => Err("it answered something else".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    (ask, result)
}

fn take(node: &Node, (ask, result): Reply) {
    let now = node.clocks.mono();
    let mut machine = node.founding();
    match (&ask.request, result) {
        // A node that is still preparing itself says so instead of introducing itself.
        (founding::Request::Hello(_), Ok((_, founding::Response::PromiseHeld { reason, .. }))) => {
            machine.unanswered(now, &ask, &reason);
        }
        (_, Ok((from, response))) => machine.answered(now, &ask, from, response),
        (_, Err(why)) => machine.unanswered(now, &ask, &why),
    }
    drop(machine);
    // What is waited for has changed, and status says what that is.
    node.knowledge.changed.notify_one();
}

/// The decree is on disk: makes the CA, our own certificate and the gossip key, and becomes the
/// first member. Each part is kept if an earlier attempt made it.
fn found(node: &Node, decree: Decree) -> anyhow::Result<()> {
    let now = node.clocks.now();
    let directory = &node.settings.paths.state_dir;
    let authority = match Authority::load(directory)? {
        Some(authority) => authority,
        None => {
            let authority = Authority::create(decree.cluster, &decree.cluster_name, now.wall)?;
            authority.store(directory)?;
            authority
        }
    };
    let csr = node.credentials.csr()?;
    let certificate = authority.issue(&csr, decree.cluster, node.id(), now.wall)?;
    let ca = vec![authority.ca_der().clone()];
    node.credentials.install(decree.cluster, certificate, ca)?;
    node.set_authority(authority);
    node.keyring.send_replace(Some(mint_keyring(directory)?));
    node.tokens.founded(now.wall, TOKEN_OUTLIVES)?;
    let stage = if decree.founder_holds_data {
        Stage::Ready
    } else {
        Stage::Founding
    };
    let text = format!(
        "this node founded cluster {} with {} members",
        decree.cluster,
        decree.members.len()
    );
    // The stage first: a roster without a stage would look like a member that is ready.
    node.knowledge.enter(stage)?;
    node.knowledge.adopt(Roster::founded(decree), now)?;
    node.event(Severity::Info, "founded", text);
    node.enrolled.notify_waiters();
    Ok(())
}

/// Fetches certificate, gossip keys and roster from the first member that gives them.
async fn enrol(
    node: &Arc<Node>,
    via: &[(NodeId, SocketAddr)],
    cluster: ClusterId,
) -> anyhow::Result<()> {
    let hello = node.hello().context("the database is not prepared yet")?;
    let mut refusal = None;
    for (member, address) in via {
        match enrol_with(node, *address, &hello).await {
            Ok(enrolled) => {
                let text = format!("enrolled in cluster {cluster} by {}", member.short());
                install(node, enrolled, cluster)?;
                node.event(Severity::Info, "enrolled", text);
                return Ok(());
            }
            Err(error) => {
                info!("{address} did not enrol this node: {error:#}");
                refusal = Some(error);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| anyhow::anyhow!("no member that can enrol answers yet")))
}

async fn enrol_with(node: &Node, address: SocketAddr, hello: &Hello) -> anyhow::Result<Enrolled> {
    let csr_der = node.credentials.csr()?;
    let ask = Ask::Enrol {
        hello: hello.clone(),
        csr_der,
    };
    match node.pairing.ask(address, ask).await?.1 {
        Answer::Enrolled(enrolled) => Ok(enrolled),
        Answer::Founding(founding::Response::PromiseHeld { reason, .. }) => bail!("{reason}"),
        Answer::Founding(_) => bail!("it answered something else"),
    }
}

fn install(node: &Node, enrolled: Enrolled, cluster: ClusterId) -> anyhow::Result<()> {
    let now = node.clocks.now();
    if enrolled.roster.decree.cluster != cluster {
        bail!(
            "the roster is of cluster {}, not of {cluster}",
            enrolled.roster.decree.cluster
        );
    }
    let ca = vec![enrolled.ca_der.into()];
    node.credentials
        .install(cluster, enrolled.certificate_der.into(), ca)?;
    enrolled.keyring.store(&node.settings.paths.state_dir)?;
    node.keyring.send_replace(Some(enrolled.keyring));
    // The stage first: a roster without a stage would look like a member that is ready.
    let stage = Stage::enrolled(&enrolled.roster.decree, node.id());
    node.knowledge.enter(stage)?;
    node.knowledge.adopt(enrolled.roster, now)?;
    node.enrolled.notify_waiters();
    Ok(())
}

/// The gossip keyring of the founder, minted once.
fn mint_keyring(state_dir: &std::path::Path) -> anyhow::Result<Keyring> {
    if let Some(keyring) = Keyring::load(state_dir)? {
        return Ok(keyring);
    }
    let keyring = Keyring::generate(&ring::rand::SystemRandom::new())?;
    keyring.store(state_dir)?;
    Ok(keyring)
}
