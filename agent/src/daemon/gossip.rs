//! Ties gossip to the rest of the agent: starts it once there are keys, tells it who should be
//! there, and turns what it sees into reach and hints.
//!
//! When this node's address changes, gossip is started anew under the new one.

use super::node::Node;
use crate::gossip::engine::Engine;
use crate::gossip::frame::{SALT_BYTES, Sealer};
use crate::gossip::member::{Member, MemberView};
use crate::gossip::udp::{self, Command, Ports, Seals, View};
use crate::trust::keyring::Keyring;
use anyhow::Context;
use log::warn;
use pgaa_core::ids::NodeId;
use pgaa_core::observed::Reach;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// How often gossip is told who should be there.
const KNOWN_PERIOD: Duration = Duration::from_secs(2);

/// How many hints may wait.
const HINTS_MAX: usize = 1024;

/// Runs gossip until the task is dropped.
pub async fn run(node: Arc<Node>, hints: mpsc::Sender<NodeId>) {
    let mut generation = node.identity.generation();
    let mut seals = seals(&node).await;
    loop {
        if node.identity.generation() != generation {
            generation = node.identity.generation();
            seals = self::seals(&node).await;
        }
        let Some((keyring, address)) = wait_for_membership(&node).await else {
            return;
        };
        match once(&node, keyring, address, &mut seals, &hints).await {
            Ok(()) => {}
            Err(error) => {
                warn!("gossip can't run: {error:#}");
                sleep(KNOWN_PERIOD).await;
            }
        }
    }
}

/// What seals this start of the agent's frames.
async fn seals(node: &Node) -> Seals {
    loop {
        match rng_salt() {
            Ok(salt) => {
                return Seals::new(Sealer::new(node.id(), node.identity.generation(), salt));
            }
            Err(error) => warn!("gossip can't run: {error:#}"),
        }
        sleep(KNOWN_PERIOD).await;
    }
}

async fn wait_for_membership(node: &Node) -> Option<(Keyring, SocketAddr)> {
    let mut keyring = node.keyring.subscribe();
    let keys = keyring.wait_for(Option::is_some).await.ok()?.clone()?;
    let mut address = node.address.subscribe();
    address.wait_for(Option::is_some).await.ok()?;
    Some((keys, node.endpoints()?.gossip))
}

/// One life of gossip, under one address.
async fn once(
    node: &Arc<Node>,
    keyring: Keyring,
    address: SocketAddr,
    seals: &mut Seals,
    hints: &mpsc::Sender<NodeId>,
) -> anyhow::Result<()> {
    let network = &node.settings.network;
    let socket = UdpSocket::bind((network.listen, network.gossip_port))
        .await
        .with_context(|| format!("UDP port {} can't be bound", network.gossip_port))?;
    let (keys, keys_followed) = watch::channel(keyring);
    let (commands, commands_taken) = mpsc::channel(64);
    let (view, mut views) = watch::channel(View::default());
    let (hint, mut hinted) = mpsc::channel(HINTS_MAX);
    let generation = node.identity.generation();
    let me = Member::new(address, node.id(), generation);
    let rng = SmallRng::from_rng(&mut rand::rng());
    let engine = Engine::new(me, network.profile, rng, node.clocks.mono());
    let ports = Ports {
        keyring: keys_followed,
        commands: commands_taken,
        view,
        hints: hint,
    };
    let gossip = udp::run(socket, engine, seals, node.clocks, ports);
    tokio::pin!(gossip);
    let mut ring = node.keyring.subscribe();
    let mut own_address = node.address.subscribe();
    let mut published = node.knowledge.published.subscribe();
    tell(node, &commands).await;
    loop {
        tokio::select! {
            () = &mut gossip => return Ok(()),
            () = node.clocks.pulse(KNOWN_PERIOD) => {
                if node.identity.generation() != generation {
                    return Ok(());
                }
                tell(node, &commands).await;
            }
            changed = ring.changed() => {
                if changed.is_ok() && let Some(newest) = ring.borrow_and_update().clone() {
                    keys.send_replace(newest);
                }
            }
            _ = own_address.changed() => {
                if node.endpoints().is_some_and(|endpoints| endpoints.gossip != address) {
                    return Ok(());
                }
            }
            _ = published.changed() => {
                let version = *published.borrow_and_update();
                // A full queue means gossip is busy; the periodic exchange carries it then.
                let _ = commands.try_send(Command::Hint(version));
            }
            _ = views.changed() => {
                let seen = views.borrow_and_update().clone();
                take_view(node, &seen, hints);
            }
            Some(hint) = hinted.recv() => take_hint(node, hint.node, hint.version, hints),
        }
    }
}

/// Random bytes for this start of the agent alone.
fn rng_salt() -> anyhow::Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    let filled = SystemRandom::new().fill(&mut salt);
    filled.map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(salt)
}

/// Tells gossip who should be there, and where.
async fn tell(node: &Node, commands: &mpsc::Sender<Command>) {
    let members = node.knowledge.with_roster(|roster| {
        let others = roster
            .records
            .values()
            .filter(|record| record.node != node.id());
        others
            .map(|r| Member::new(r.endpoints.gossip, r.node, r.generation))
            .collect::<Vec<_>>()
    });
    // Gossip ends when this channel closes, not the other way round.
    let _ = commands
        .send(Command::Known(members.unwrap_or_default()))
        .await;
}

fn take_view(node: &Node, view: &View, hints: &mpsc::Sender<NodeId>) {
    let reach = |member: &MemberView| match member.liveness.is_active() {
        true => Reach::Up,
        false => Reach::Down,
    };
    let seen: BTreeMap<NodeId, Reach> = view
        .members
        .iter()
        .map(|(id, member)| (*id, reach(member)))
        .collect();
    for returned in node.knowledge.set_gossip(seen) {
        // Whoever comes back may have said something meanwhile.
        let _ = hints.try_send(returned);
    }
}

fn take_hint(node: &Node, about: NodeId, version: u64, hints: &mpsc::Sender<NodeId>) {
    let known = node.knowledge.with_roster(|roster| {
        roster
            .records
            .get(&about)
            .is_some_and(|record| record.version >= version)
    });
    if known == Some(false) {
        let _ = hints.try_send(about);
    }
}
