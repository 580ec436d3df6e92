//! Real sockets on the loopback.

use super::*;
use crate::config::NetworkProfile;
use crate::gossip::member::Liveness;
use crate::trust::keyring::Key;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;
use uuid::Uuid;

struct Node {
    member: Member,
    commands: mpsc::Sender<Command>,
    keyring: watch::Sender<Keyring>,
    view: watch::Receiver<View>,
    hints: mpsc::Receiver<Hint>,
    task: JoinHandle<()>,
}

fn ring(byte: u8) -> Keyring {
    Keyring::new(vec![Key::new(1, &[byte; 32]).unwrap()]).unwrap()
}

async fn start(n: u128, key: u8) -> Node {
    let clocks = Clocks::start();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let id = NodeId(Uuid::from_u128(n));
    let member = Member::new(socket.local_addr().unwrap(), id, 1);
    let rng = SmallRng::seed_from_u64(n as u64);
    let engine = Engine::new(member, NetworkProfile::Lan, rng, clocks.mono());
    let sealer = Sealer::new(id, 1, [n as u8; 16]);
    let (commands, commands_in) = mpsc::channel(8);
    let (keyring, keyring_in) = watch::channel(ring(key));
    let (view_out, view) = watch::channel(View::default());
    // Room for one: a slow reader must lose nothing.
    let (hints_out, hints) = mpsc::channel(1);
    let ports = Ports {
        keyring: keyring_in,
        commands: commands_in,
        view: view_out,
        hints: hints_out,
    };
    let mut seals = Seals::new(sealer);
    let task = tokio::spawn(async move { run(socket, engine, &mut seals, clocks, ports).await });
    Node {
        member,
        commands,
        keyring,
        view,
        hints,
        task,
    }
}

impl Node {
    async fn eventually(&mut self, what: &str, condition: impl FnMut(&View) -> bool) {
        let limit = Duration::from_secs(8);
        let seen = tokio::time::timeout(limit, self.view.wait_for(condition))
            .await
            .is_ok();
        assert!(seen, "never seen: {what}; {:?}", self.view.borrow());
    }

    fn sees(&self, other: &Node) -> Option<Liveness> {
        self.view
            .borrow()
            .members
            .get(&other.member.node)
            .map(|view| view.liveness)
    }
}

#[tokio::test]
async fn three_nodes_meet_hear_hints_and_notice_who_leaves_and_who_dies() {
    let (mut a, mut b, mut c) = (start(1, 7).await, start(2, 7).await, start(3, 7).await);
    for node in [&b, &c] {
        node.commands
            .send(Command::Announce(a.member.addr))
            .await
            .unwrap();
    }
    for node in [&mut a, &mut b, &mut c] {
        node.eventually("two others", |view| {
            view.members.len() == 2 && view.connected
        })
        .await;
    }
    for version in 1..=3 {
        a.commands.send(Command::Hint(version)).await.unwrap();
        b.commands.send(Command::Hint(version + 10)).await.unwrap();
    }
    let mut newest = BTreeMap::new();
    while newest.get(&a.member.node) != Some(&3) || newest.get(&b.member.node) != Some(&13) {
        let hint = c.hints.recv().await.unwrap();
        newest.insert(hint.node, hint.version);
    }
    let (done, left) = oneshot::channel();
    b.commands.send(Command::Leave(done)).await.unwrap();
    left.await.unwrap();
    let gone = b.member.node;
    for node in [&mut a, &mut c] {
        let is_down = |view: &View| view.members[&gone].liveness == Liveness::Down;
        node.eventually("b has left", is_down).await;
    }
    assert_eq!(a.sees(&c), Some(Liveness::Alive));
    c.task.abort();
    let died = c.member.node;
    a.eventually("c died", |view| {
        view.members[&died].liveness == Liveness::Down
    })
    .await;
    assert!(!a.view.borrow().connected);
    drop(a.commands);
    a.task.await.unwrap();
}

#[tokio::test]
async fn a_stranger_is_counted_and_not_heard_until_it_has_the_key() {
    let (mut a, mut b) = (start(1, 7).await, start(2, 8).await);
    b.commands
        .send(Command::Announce(a.member.addr))
        .await
        .unwrap();
    a.eventually("a forged frame", |view| view.faults.contains_key("forged"))
        .await;
    assert!(a.view.borrow().members.is_empty());
    b.keyring.send_replace(ring(7));
    let known = b.member.node;
    a.eventually("b joins", |view| view.members.contains_key(&known))
        .await;
    b.eventually("a answers", |view| view.connected).await;
}

#[tokio::test]
async fn junk_is_counted_and_harmless() {
    let (mut a, b) = (start(1, 7).await, start(2, 7).await);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"hello", a.member.addr).await.unwrap();
    socket.send_to(&[0; 3000], a.member.addr).await.unwrap();
    socket.send_to(&[9; 200], a.member.addr).await.unwrap();
    a.eventually("all three refused", |view| {
        ["short", "long", "version"]
            .iter()
            .all(|kind| view.faults.get(kind) == Some(&1))
    })
    .await;
    b.commands
        .send(Command::Announce(a.member.addr))
        .await
        .unwrap();
    a.eventually("b joins all the same", |view| view.members.len() == 1)
        .await;
}
