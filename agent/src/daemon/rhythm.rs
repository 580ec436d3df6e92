//! What is done by the clock, beside the loop: heartbeats, the CA's key for ready members, certificates before they expire, the own address.

use super::node::Node;
use crate::discovery::own_address;
use crate::events::Severity;
use crate::peer::Ask;
use crate::postgres::Flush;
use crate::trust::Authority;
use anyhow::bail;
use log::{debug, warn};
use pgaa_core::ids::NodeId;
use pgaa_core::life::Stage;
use pgaa_core::record::JoinPhase;
use pgaa_core::state::NodeState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Between two heartbeats of a mesh at rest.
const BEAT: Duration = Duration::from_secs(1);

/// Between two heartbeats while edges are being made: readiness waits for the first to arrive.
const BEAT_FORMING: Duration = Duration::from_millis(50);

/// Between two looks at certificate and CA.
const TRUST_PERIOD: Duration = Duration::from_secs(5);

/// How soon a node that has just become a member asks for the CA's key; each time it gets none
/// it waits twice as long.
const AUTHORITY_SOON: Duration = Duration::from_millis(250);

/// Between two times that the roster is stored for what was seen of the members.
const ROSTER_PERIOD: Duration = Duration::from_secs(60);

/// Between two looks at the own address.
const ADDRESS_PERIOD: Duration = Duration::from_secs(1);

/// Writes heartbeats for as long as this node is a member.
pub async fn beat(node: Arc<Node>) {
    let mut last_error = String::new();
    let mut forming = node.forming.subscribe();
    loop {
        let life = node.knowledge.life();
        let stage = life.stage;
        // One that is set apart writes nothing any more.
        let apart = life.quarantined.is_some();
        let looked = node.beat_floor().is_some();
        if stage == Stage::Single || stage == Stage::Left || apart || !looked {
            sleep(BEAT_FORMING).await;
            continue;
        }
        let hurry = *forming.borrow_and_update();
        let (pause, flush) = match hurry {
            true => (BEAT_FORMING, Flush::Now),
            false => (BEAT, Flush::Later),
        };
        let result = node.beat(flush).await;
        let error = result
            .err()
            .map(|error| format!("{error:#}"))
            .unwrap_or_default();
        if error != last_error && !error.is_empty() {
            warn!("no heartbeat could be written: {error}");
        }
        last_error = error;
        tokio::select! {
            () = node.clocks.pulse(pause) => {}
            // Whoever waits for a heartbeat waits from now on.
            _ = forming.wait_for(|forming| *forming), if !hurry => {}
        }
    }
}

/// Are edges being made, here or elsewhere, so that somebody waits for heartbeats? Not while a
/// joiner copies, which may take hours.
pub fn forming(node: &Node, stage: Stage) -> bool {
    let links = |phase: Option<JoinPhase>| match phase {
        Some(JoinPhase::Leasing | JoinPhase::Copying | JoinPhase::CatchingUp) => false,
        Some(JoinPhase::Founding | JoinPhase::Linking | JoinPhase::Checking) | None => true,
    };
    match stage {
        // It may wait for its clock for hours.
        Stage::Founding => node.status.borrow().node.state != NodeState::WaitingForClock,
        Stage::Joining(phase) => links(Some(phase)),
        Stage::Single | Stage::Ready | Stage::Resyncing | Stage::Leaving | Stage::Left => {
            let others = node.knowledge.with_roster(|roster| {
                let mut records = roster.records.values();
                records.any(|r| r.state == NodeState::Joining && links(r.phase))
            });
            others == Some(true)
        }
    }
}

/// Stores what was seen of every member, so that a database that goes back is noticed by an agent
/// that was restarted meanwhile as well.
pub async fn keep_roster(node: Arc<Node>) {
    loop {
        sleep(ROSTER_PERIOD).await;
        if let Err(error) = node.knowledge.store_roster() {
            warn!("the roster could not be stored: {error}");
        }
    }
}

/// Follows the own address, where it is not configured. Once a cluster is known the members'
/// addresses are the targets: the route to them is what counts.
pub async fn watch_address(node: Arc<Node>) {
    if node.settings.network.advertise.is_some() {
        return;
    }
    // Without a cluster the seeds say first which way counts.
    if node.knowledge.with_roster(|_| ()).is_none() {
        node.clocks.pulse(ADDRESS_PERIOD).await;
    }
    loop {
        follow_address(&node);
        node.clocks.pulse(ADDRESS_PERIOD).await;
    }
}

fn follow_address(node: &Node) {
    let others = node.knowledge.others().into_iter();
    let targets: Vec<SocketAddr> = others.map(|(_, address)| address).collect();
    let Some(own) = own_address(&targets) else {
        return;
    };
    let changed = node.address.send_if_modified(|known| {
        let changed = *known != Some(own);
        *known = Some(own);
        changed
    });
    if changed {
        node.event(
            Severity::Info,
            "address_changed",
            format!("this node is at {own} now"),
        );
        node.knowledge.changed.notify_one();
    }
}

/// Fetches the CA's key as soon as this node may hold it, renews its certificate at two thirds of
/// its life, and shares what is known of tokens whenever that changes here.
pub async fn keep_trust(node: Arc<Node>) {
    let mut pause = AUTHORITY_SOON;
    loop {
        let changed = tokio::select! {
            () = node.tokens_changed.notified() => true,
            () = node.clocks.pulse(pause) => false,
        };
        if changed {
            for (member, address) in node.knowledge.others() {
                share_tokens(&node, member, address).await;
            }
        }
        let stage = node.knowledge.life().stage;
        if node.holds_authority() {
            pause = TRUST_PERIOD;
        } else if matches!(stage, Stage::Founding | Stage::Ready) {
            // Until another member holds it, the founder's loss is the end of all enrolling.
            fetch_authority(&node).await;
            pause = (pause * 2).min(TRUST_PERIOD);
        } else {
            pause = AUTHORITY_SOON;
        }
        if node.credentials.needs_renewal(node.clocks.wall())
            && let Err(error) = renew(&node).await
        {
            warn!("the certificate could not be renewed yet: {error:#}");
        }
    }
}

async fn fetch_authority(node: &Node) {
    for (member, address) in node.knowledge.others() {
        match node.peers.authority(member, address).await {
            Ok(answer) => match Authority::from_parts(&answer.key_pkcs8, &answer.ca_der) {
                Ok(authority) => {
                    if let Err(error) = authority.store(&node.settings.paths.state_dir) {
                        warn!("the CA's key could not be stored: {error}");
                        return;
                    }
                    node.set_authority(authority);
                    share_tokens(node, member, address).await;
                    let text = "this node can enrol others now: it holds the CA's key";
                    node.event(Severity::Info, "authority", text);
                    return;
                }
                Err(error) => warn!("{} sent a CA that can't be used: {error}", member.short()),
            },
            Err(error) => debug!("{} did not give the CA's key: {error}", member.short()),
        }
    }
}

/// Whoever enrols others must know which tokens are valid.
async fn share_tokens(node: &Node, member: NodeId, address: SocketAddr) {
    match node
        .peers
        .exchange_tokens(member, address, &node.tokens.share())
        .await
    {
        Ok(theirs) => {
            if let Err(error) = node.tokens.merge(&theirs) {
                warn!("the join tokens could not be stored: {error}");
            }
        }
        Err(error) => debug!("{} did not share its join tokens: {error}", member.short()),
    }
}

/// A new certificate for the same key: from the CA here, or by enrolling again.
async fn renew(node: &Node) -> anyhow::Result<()> {
    let Some(cluster) = node.credentials.cluster() else {
        bail!("there is none to renew")
    };
    let csr = node.credentials.csr()?;
    let now = node.clocks.wall();
    let issued = node.with_authority(|authority| {
        let certificate = authority.issue(&csr, cluster, node.id(), now)?;
        Ok::<_, crate::trust::AuthorityError>((certificate, authority.ca_der().clone()))
    });
    if let Some(issued) = issued {
        let (certificate, ca) = issued?;
        node.credentials.install(cluster, certificate, vec![ca])?;
        return renewed(node);
    }
    let Some(hello) = node.hello() else {
        bail!("the database is not prepared")
    };
    for (_, address) in node.knowledge.others() {
        let ask = Ask::Enrol {
            hello: hello.clone(),
            csr_der: csr.clone(),
        };
        if let Ok((_, crate::peer::Answer::Enrolled(enrolled))) =
            node.pairing.ask(address, ask).await
        {
            let ca = vec![enrolled.ca_der.into()];
            node.credentials
                .install(cluster, enrolled.certificate_der.into(), ca)?;
            return renewed(node);
        }
    }
    bail!("no member could be asked")
}

fn renewed(node: &Node) -> anyhow::Result<()> {
    node.event(
        Severity::Info,
        "certificate_renewed",
        "the node's certificate was renewed",
    );
    Ok(())
}

/// Has PostgreSQL read certificate and CA again whenever they were replaced.
pub async fn reload_certificates(node: Arc<Node>) {
    let mut installed = node.credentials.follow();
    loop {
        if installed.changed().await.is_err() {
            return std::future::pending().await;
        }
        while let Err(error) = node.postgres.reload_conf().await {
            debug!("PostgreSQL can't be told of the new certificate yet: {error}");
            sleep(ADDRESS_PERIOD).await;
        }
    }
}
