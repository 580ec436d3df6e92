//! Carries gossip over a UDP socket.
//!
//! Seals and opens, fires timers on time, and tells the rest of the agent what is so. Makes no
//! choice of its own, and never waits for whoever listens: the state is a value to be watched,
//! and hints are kept, the newest of each node, until somebody takes them.

use super::engine::{Engine, GossipError, Output};
use super::frame::{Opener, Sealer};
use super::hints::Hint;
use super::member::{Member, MemberView};
use super::tally::Tally;
use super::tuning::DATAGRAM_BYTES_MAX;
use crate::clock::Clocks;
use crate::trust::keyring::Keyring;
use log::{Level, info};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Mono;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

/// How many datagrams are read between two looks at the timers. Read first, because what has
/// arrived may be the answer that a timer is about to miss; bounded, so that a flood can't keep
/// the timers from firing.
const BATCH_MAX: usize = 256;

/// How many hints wait for a reader. More than a mesh has nodes.
const HINTS_KEPT_MAX: usize = 1024;

/// How often at most the watched state is brought up to date when no member comes or goes:
/// suspicions are not announced by foca. It wakes nobody: probes do, as often as this.
const REFRESH: Duration = Duration::from_millis(500);

/// What the rest of the agent asks of gossip.
#[derive(Debug)]
pub enum Command {
    /// Join by way of this address.
    Announce(SocketAddr),
    /// This node has written this version of its record.
    Hint(u64),
    /// The members that should be there, all of them, from the roster.
    Known(Vec<Member>),
    /// Say good-bye; answered when it has been sent.
    Leave(oneshot::Sender<()>),
}

/// What gossip knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Everybody else that was ever heard of, by node.
    pub members: BTreeMap<NodeId, MemberView>,
    /// Does at least one other member know this node?
    pub connected: bool,
    /// How often this node was declared down by others and came back.
    pub rejoins: u64,
    /// How many datagrams were refused, or could not be sent, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Where gossip meets the rest of the agent.
#[derive(Debug)]
pub struct Ports {
    /// The keys; the newest ring counts.
    pub keyring: watch::Receiver<Keyring>,
    /// What is asked. When it closes, gossip ends.
    pub commands: mpsc::Receiver<Command>,
    /// What is so. The newest counts; nobody has to look in time.
    pub view: watch::Sender<View>,
    /// Whose records are worth fetching.
    pub hints: mpsc::Sender<Hint>,
}

/// What seals and opens frames, kept for as long as the agent runs: gossip that starts again, at
/// another address, goes on counting. Another salt in the same generation is what a copied
/// machine shows, and a counter that begins anew would use a nonce twice.
#[derive(Debug)]
pub struct Seals {
    sealer: Sealer,
    opener: Opener,
}

impl Seals {
    /// Those of one start of the agent.
    #[must_use]
    pub fn new(sealer: Sealer) -> Seals {
        let opener = Opener::beside(&sealer);
        Seals { sealer, opener }
    }
}

/// Runs until the sender of commands is gone.
pub async fn run(
    socket: UdpSocket,
    engine: Engine,
    seals: &mut Seals,
    clocks: Clocks,
    ports: Ports,
) {
    let Ports {
        keyring,
        mut commands,
        view,
        hints,
    } = ports;
    let mut link = Link {
        socket,
        engine,
        seals,
        clocks,
        keyring,
        view,
        tally: Tally::default(),
        rejoins: 0,
        pending: BTreeMap::new(),
        refresh_at: Mono(0),
    };
    let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
    loop {
        link.flush().await;
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(command) => link.obey(command).await,
                None => return,
            },
            received = link.socket.recv_from(&mut buffer) => {
                link.receive(received, &mut buffer).await;
            }
            () = sleep(link.until_deadline()) => {}
            permit = hints.reserve(), if !link.pending.is_empty() && !hints.is_closed() => {
                if let (Ok(permit), Some((node, version))) = (permit, link.pending.pop_first()) {
                    permit.send(Hint { node, version });
                }
            }
        }
        // Whatever woke the loop: a busy socket must not keep a timer waiting.
        link.fire_timers();
    }
}

struct Link<'a> {
    socket: UdpSocket,
    engine: Engine,
    seals: &'a mut Seals,
    clocks: Clocks,
    keyring: watch::Receiver<Keyring>,
    view: watch::Sender<View>,
    tally: Tally,
    rejoins: u64,
    pending: BTreeMap<NodeId, u64>,
    refresh_at: Mono,
}

impl Link<'_> {
    fn until_deadline(&self) -> Duration {
        let next = self.engine.next_deadline().unwrap_or(self.refresh_at);
        next.since(self.clocks.mono())
    }

    fn fire_timers(&mut self) {
        let now = self.clocks.mono();
        if self
            .engine
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            let result = self.engine.advance(now);
            self.note(result);
        }
        if self.refresh_at <= now {
            self.refresh_at = now.plus(REFRESH);
            self.publish();
        }
    }

    async fn obey(&mut self, command: Command) {
        let now = self.clocks.mono();
        let result = match command {
            Command::Announce(addr) => self.engine.announce(now, addr),
            Command::Hint(version) => self.engine.hint(now, version),
            Command::Known(known) => {
                let generations = known.iter().map(|member| (member.node, member.generation));
                self.seals.opener.expect_generations(generations.collect());
                self.engine.apply_known(now, known)
            }
            Command::Leave(done) => {
                let result = self.engine.leave(now);
                self.flush().await;
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
                result
            }
        };
        self.note(result);
    }

    /// Takes in the datagram that woke the loop, and those that wait behind it.
    async fn receive(&mut self, first: io::Result<(usize, SocketAddr)>, buffer: &mut [u8]) {
        let mut received = first;
        for _ in 0..BATCH_MAX {
            match received {
                Ok((length, from)) => {
                    self.take_in(buffer.get(..length).unwrap_or_default(), from);
                    self.flush().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    self.tally.count(
                        self.clocks.mono(),
                        Level::Warn,
                        "receive",
                        format_args!("cannot receive: {error}"),
                    );
                    // An error that stays must not turn the loop into a spin.
                    return sleep(Duration::from_millis(50)).await;
                }
            }
            received = self.socket.try_recv_from(buffer);
        }
    }

    fn take_in(&mut self, frame: &[u8], from: SocketAddr) {
        let now = self.clocks.mono();
        let opened = self.seals.opener.open(&self.keyring.borrow(), frame);
        let result = match opened {
            Ok(opened) => self.engine.datagram(now, &opened.packet),
            Err(error) => {
                let text = format_args!("from {from}: {error}");
                return self.tally.count(now, Level::Warn, error.kind(), text);
            }
        };
        self.note(result);
    }

    /// Sends what the engine wants sent and passes on what it says.
    async fn flush(&mut self) {
        let mut changed = false;
        while let Some(output) = self.engine.poll_output() {
            changed |= !matches!(output, Output::Send { .. } | Output::Hint(_));
            match output {
                Output::Send { to, bytes } => self.send(to, &bytes).await,
                Output::Hint(hint) => self.keep(hint),
                Output::Up { member } => {
                    info!("gossip: {} is up at {}", member.node, member.addr);
                }
                Output::Down { member } => {
                    info!("gossip: {} does not answer at {}", member.node, member.addr);
                }
                Output::Idle => info!("gossip: no other member answers; announcing again"),
                Output::Rejoined => {
                    self.rejoins += 1;
                    info!("gossip: the others held this node for down; it is back");
                }
                Output::Defunct => info!("gossip: this node has left"),
            }
        }
        if changed {
            self.publish();
        }
    }

    /// Keeps a hint until it is taken.
    fn keep(&mut self, hint: Hint) {
        let newest = self.pending.entry(hint.node).or_default();
        *newest = hint.version.max(*newest);
        if self.pending.len() > HINTS_KEPT_MAX {
            self.pending.pop_first();
            let text = "too many hints wait to be read; the next full exchange replaces them";
            self.tally
                .count(self.clocks.mono(), Level::Warn, "hints", text);
        }
    }

    async fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        let now = self.clocks.mono();
        let sealed = self.seals.sealer.seal(&self.keyring.borrow(), packet);
        let frame = match sealed {
            Ok(frame) => frame,
            Err(error) => return self.tally.count(now, Level::Error, error.kind(), &error),
        };
        if let Err(error) = self.socket.send_to(&frame, self.reachable_form(to)).await {
            let text = format_args!("cannot send to {to}: {error}");
            self.tally.count(now, Level::Warn, "send", text);
        }
    }

    /// An IPv6 socket reaches IPv4 addresses in their mapped form only.
    fn reachable_form(&self, to: SocketAddr) -> SocketAddr {
        match (self.socket.local_addr(), to.ip()) {
            (Ok(SocketAddr::V6(_)), IpAddr::V4(ip)) => {
                SocketAddr::new(ip.to_ipv6_mapped().into(), to.port())
            }
            _ => to,
        }
    }

    fn publish(&self) {
        let view = View {
            members: self.engine.members(),
            connected: self.engine.is_connected(),
            rejoins: self.rejoins,
            faults: self.tally.totals(),
        };
        self.view.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
    }

    fn note(&mut self, result: Result<(), GossipError>) {
        if let Err(error) = result {
            let text = format!("{:#}", anyhow::Error::new(error));
            self.tally
                .count(self.clocks.mono(), Level::Debug, "protocol", text);
        }
    }
}

#[cfg(test)]
mod tests;
