//! Agents of a test, over 127.0.0.1: real TLS, real gRPC, hosts that answer from memory.

mod mesh;
mod pairing;

use super::*;
use crate::clock::Clocks;
use crate::durable;
use crate::trust::{
    Authority, Credentials, JoinToken, Keyring, TokenEntry, TokenId, Tokens, credentials::TlsFiles,
};
use pgaa_core::founding::{DataHeld, Hello, Request, Response};
use pgaa_core::ids::{ClusterId, DataEpoch, Lsn, Name, NodeId, Ordinal};
use pgaa_core::join::{
    LeaseAnswer, LeaseAsk, LeaseKind, LeaseVerdict, ServerFacts, Step, StepAnswer, StepAsk,
};
use pgaa_core::record::Endpoints;
use pgaa_core::roster::{Decree, FoundingMember, Roster};
use pgaa_core::rows::{Mended, Moment, Referrers, Repair, Seen, Stamp, Version};
use pgaa_core::time::Wall;
use pgaa_core::verify::{Definition, Digest, Key, Orphans};
use ring::rand::SystemRandom;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use uuid::Uuid;

const CLUSTER: ClusterId = ClusterId(Uuid::from_u128(0xC));
const DAY_MS: i64 = 86_400_000;

fn id(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn shop() -> Name {
    Name::new("shop").unwrap()
}

fn authority(now: Wall) -> Authority {
    Authority::create(CLUSTER, &shop(), now).unwrap()
}

fn hello(node: NodeId) -> Hello {
    let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
    Hello {
        node,
        name: Name::new("one").unwrap(),
        cluster_name: shop(),
        endpoints: Endpoints {
            grpc: at(7432),
            gossip: at(7432),
            postgres: at(5432),
        },
        generation: 3,
        epoch: DataEpoch(Uuid::from_u128(5)),
        system_identifier: 6,
        expect: 3,
        data: DataHeld::Empty,
        cluster: None,
        enrols: false,
        known: vec![(id(9), at(9))],
        promised: None,
    }
}

fn roster() -> Roster {
    let member = FoundingMember {
        node: id(1),
        name: Name::new("one").unwrap(),
        ordinal: Ordinal(1),
        epoch: DataEpoch(Uuid::from_u128(5)),
    };
    Roster::founded(Decree {
        cluster: CLUSTER,
        cluster_name: shop(),
        founder: id(1),
        founder_holds_data: false,
        members: vec![member],
    })
}

/// Answers from memory.
struct Host {
    node: NodeId,
    name: Name,
    clocks: Clocks,
    tokens: Tokens,
    keyring: Keyring,
    authority: Mutex<Option<Authority>>,
    buried: Mutex<BTreeSet<NodeId>>,
    /// Whom the questions came from.
    asked: Mutex<Vec<NodeId>>,
}

#[tonic::async_trait]
impl PairingHost for Host {
    fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    fn cluster_name(&self) -> &Name {
        &self.name
    }

    async fn founding(&self, from: NodeId, _request: Request) -> Response {
        self.asked.lock().unwrap().push(from);
        Response::Hello(hello(self.node))
    }

    async fn enrol(
        &self,
        from: NodeId,
        token: &TokenId,
        _hello: Hello,
        csr_der: &[u8],
    ) -> Result<Enrolled, Refusal> {
        self.asked.lock().unwrap().push(from);
        let authority = self.authority.lock().unwrap();
        let authority = authority
            .as_ref()
            .ok_or_else(|| Refusal::new("no_authority", "no CA"))?;
        let issued = authority.issue(csr_der, CLUSTER, from, self.clocks.wall());
        let certificate = issued.map_err(|e| Refusal::new("bad_request", &e.to_string()))?;
        self.tokens.count_use(token, self.node).unwrap();
        Ok(Enrolled {
            certificate_der: certificate.to_vec(),
            ca_der: authority.ca_der().to_vec(),
            keyring: self.keyring.clone(),
            roster: roster(),
        })
    }
}

#[tonic::async_trait]
impl MeshHost for Host {
    fn admits(&self, from: NodeId) -> Result<(), Refusal> {
        if self.buried.lock().unwrap().contains(&from) {
            return Err(Refusal::new("buried", "this node was forgotten"));
        }
        Ok(())
    }

    async fn exchange(
        &self,
        from: NodeId,
        have: BTreeMap<NodeId, u64>,
        offer: Roster,
    ) -> Result<(Roster, Vec<NodeId>), Refusal> {
        self.asked.lock().unwrap().push(from);
        Ok((offer, have.into_keys().collect()))
    }

    async fn catalog(&self) -> Result<CatalogAnswer, Refusal> {
        let name = "public.\"o\u{7}dd\"".to_owned();
        let tables = vec![CatalogTable {
            name,
            structure: u64::MAX,
            primary_key: true,
        }];
        Ok(CatalogAnswer { digest: 7, tables })
    }

    fn instants(&self) -> pgaa_core::clock::pair::Instants {
        self.clocks.instants()
    }

    async fn propose_forget(&self, _from: NodeId, proposal: ForgetProposal) -> ForgetAnswer {
        let reason = format!("{proposal:?}");
        ForgetAnswer {
            consent: !proposal.commit,
            target_answers: true,
            reason,
        }
    }

    async fn exchange_tokens(
        &self,
        _from: NodeId,
        theirs: BTreeMap<TokenId, TokenEntry>,
    ) -> Result<BTreeMap<TokenId, TokenEntry>, Refusal> {
        self.tokens
            .merge(&theirs)
            .map_err(|e| Refusal::new("store", &e.to_string()))?;
        Ok(self.tokens.share())
    }

    async fn authority(&self, _from: NodeId) -> Result<AuthorityAnswer, Refusal> {
        let authority = self.authority.lock().unwrap();
        let authority = authority.as_ref();
        let authority = authority.ok_or_else(|| Refusal::new("not_ready", "for members only"))?;
        let ca_der = authority.ca_der().to_vec();
        Ok(AuthorityAnswer {
            key_pkcs8: authority.key_pkcs8(),
            ca_der,
        })
    }

    async fn lease(&self, _from: NodeId, ask: LeaseAsk) -> Result<LeaseAnswer, Refusal> {
        let verdict = if ask.kind == LeaseKind::Acquire {
            LeaseVerdict::Granted
        } else {
            LeaseVerdict::Denied {
                holder: Some(ask.joiner),
                reason: format!("{:?}", ask.ttl),
            }
        };
        Ok(LeaseAnswer {
            verdict,
            epoch: ask.epoch + 1,
            roster: roster(),
        })
    }

    async fn join_step(&self, _from: NodeId, ask: StepAsk) -> Result<StepAnswer, Refusal> {
        Ok(match ask.step {
            Step::CreateSlot { subscription } => {
                StepAnswer::Origins(BTreeMap::from([(subscription, Lsn(1))]))
            }
            Step::DropSlots | Step::Commit => StepAnswer::Done,
            Step::FindSlot { .. } => StepAnswer::Absent,
            Step::Facts => StepAnswer::Facts(Box::new(facts())),
            Step::Beat => StepAnswer::Heartbeat(5),
            Step::Arrived => StepAnswer::Heartbeat(6),
            Step::InsertPosition => StepAnswer::Position(Lsn(u64::MAX)),
            Step::OriginPositions { since, until } => StepAnswer::Position(Lsn(until.0 - since.0)),
        })
    }

    async fn compare(&self, table: &str, ask: CompareAsk) -> Result<CompareAnswer, Refusal> {
        Ok(match ask {
            CompareAsk::Digest(range) => {
                let rows = range.upto.map_or(0, |key| key.len() as u64);
                let hash = [i64::MIN, i64::MAX];
                CompareAnswer::Digest(-1, Digest { rows, hash })
            }
            CompareAsk::Bound(range, step) if step > 1 => CompareAnswer::Bound(range.after),
            CompareAsk::Bound(..) => CompareAnswer::Bound(None),
            CompareAsk::Rows(_) => CompareAnswer::Rows(BTreeMap::new()),
            CompareAsk::Look(keys) => {
                CompareAnswer::Rows(keys.into_iter().map(|key| (key, [1, -1])).collect())
            }
            CompareAsk::Beat => CompareAnswer::Beat(table.len() as u64),
            CompareAsk::Heartbeats => {
                CompareAnswer::Heartbeats(BTreeMap::from([(self.node, u64::MAX)]))
            }
            CompareAsk::Pieces(tables, after) => {
                let pieces = after.into_iter().map(|piece| (piece, [i64::MIN, -1]));
                CompareAnswer::Pieces((pieces.collect(), tables == ["a", "b"]))
            }
            CompareAsk::Definitions(pieces, characters) => {
                let one = |text: &str| Definition {
                    hash: [1, i64::MAX],
                    text: text.repeat(characters as usize),
                    within: vec!["table a".to_owned(), String::new()],
                };
                let defined = pieces.into_iter().map(|piece| (piece, one("\u{1}\n")));
                CompareAnswer::Definitions(defined.collect())
            }
            CompareAsk::Orphans(range) => {
                CompareAnswer::Orphans(vec![orphans(range.after.into_iter().chain(range.upto))])
            }
            CompareAsk::OrphansAmong(keys) => {
                CompareAnswer::Orphans(vec![orphans(keys.into_iter())])
            }
        })
    }

    async fn check_rows(&self, _table: &str, ask: CheckAsk) -> Result<CheckAnswer, Refusal> {
        Ok(match ask {
            CheckAsk::Look(keys) => {
                CheckAnswer::Seen(moment(), keys.iter().map(|_| seen()).collect())
            }
            CheckAsk::Begins(keys) => CheckAnswer::Keys(keys.into_iter().collect()),
            CheckAsk::Values(versions) => {
                let one = |(key, token): (Key, u32)| {
                    let values = key.into_iter().map(|text| (text, None));
                    (token > 0).then(|| values.collect())
                };
                CheckAnswer::Values(versions.into_iter().map(one).collect())
            }
            // Each field that arrives whole is seen in one of the outcomes.
            CheckAsk::Mend(repairs) => {
                let one = |repair: Repair| match (repair.seen, repair.right) {
                    (Some(u32::MAX), Some(right)) if right.stamp == Some(stamp()) => {
                        Mended::Refused(format!("{:?} {}", right.values, repair.rule))
                    }
                    (None, Some(right)) if right.stamp.is_none() && repair.looked == moment() => {
                        Mended::Done
                    }
                    (Some(0), None) => Mended::Blocked(repair.key),
                    _ => Mended::Raced,
                };
                CheckAnswer::Mended(repairs.into_iter().map(one).collect())
            }
            CheckAsk::Referrers(key) => CheckAnswer::Referrers(vec![referrers(&key)]),
        })
    }

    async fn vouch(&self, from: NodeId, claim: Option<Claim>) -> Result<u64, Refusal> {
        match claim {
            Some(claim) if claim.run == 0 => Err(Refusal::new("twin", &claim.at.to_string())),
            Some(claim) => Ok(claim.run),
            None => Ok(from.0.as_u64_pair().1),
        }
    }

    async fn ping(&self, _from: NodeId, generation: u64) -> u64 {
        generation + 1
    }
}

fn moment() -> Moment {
    Moment {
        run: u64::MAX,
        at_ms: 3,
    }
}

fn orphans(keys: impl Iterator<Item = Key>) -> Orphans {
    Orphans {
        constraint: "c".to_owned(),
        table: "t".to_owned(),
        parent: "p".to_owned(),
        keys: keys.collect(),
    }
}

fn referrers(key: &Key) -> Referrers {
    Referrers {
        table: "public.child".to_owned(),
        constraint: "fkey".to_owned(),
        rows: u64::MAX,
        command: key.join(" "),
    }
}

fn stamp() -> Stamp {
    Stamp {
        at_us: i64::MIN,
        author: id(9),
    }
}

/// A row with something in every field.
fn seen() -> Seen {
    Seen {
        row: Some(Version {
            stamp: Some(stamp()),
            hash: [i64::MIN, i64::MAX],
            token: u32::MAX,
            mended: true,
        }),
        deleted_us: Some(-1),
        deletes_since_us: Some(i64::MAX),
        ordered: true,
    }
}

/// A server with something to say in every field.
fn facts() -> ServerFacts {
    ServerFacts {
        version_num: 150_020,
        locale: "UTF8, C.UTF-8, C.UTF-8".to_owned(),
        collation_version: "2.36".to_owned(),
        collation_recorded: "2.31".to_owned(),
        database_bytes: 1,
        free_bytes: Some(2),
        slots_free: 3,
        senders_free: 4,
        workers_free: 5,
        wal_can_be_read: true,
        replicated: ["public.items".to_owned()].into(),
        blockers: vec!["pid 7".to_owned()],
        prepared: vec!["two".to_owned()],
        extensions: ["pglogical".to_owned()].into(),
    }
}

/// One agent, listening.
struct Agent {
    directory: TempDir,
    node: NodeId,
    clocks: Clocks,
    credentials: Arc<Credentials>,
    host: Arc<Host>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), ServeError>>,
}

impl Agent {
    /// A listening agent that holds `token`, with a self-signed certificate.
    async fn start(number: u128, token: &JoinToken) -> Agent {
        Agent::start_in(tempfile::tempdir().unwrap(), number, &shop(), token).await
    }

    async fn start_in(directory: TempDir, number: u128, name: &Name, token: &JoinToken) -> Agent {
        let clocks = Clocks::start();
        let node = id(number);
        let path = directory.path();
        let credentials = Arc::new(Credentials::open(path, node, clocks).unwrap());
        let tokens = Tokens::open(path).unwrap();
        tokens.adopt(token, clocks.wall()).unwrap();
        let host = Arc::new(Host {
            node,
            name: name.clone(),
            clocks,
            tokens,
            keyring: Keyring::generate(&SystemRandom::new()).unwrap(),
            authority: Mutex::new(None),
            buried: Mutex::new(BTreeSet::new()),
            asked: Mutex::new(Vec::new()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let serving = serve(
            listener,
            credentials.clone(),
            host.clone(),
            host.clone(),
            shutdown,
        );
        let task = tokio::spawn(serving);
        Agent {
            directory,
            node,
            clocks,
            credentials,
            host,
            address,
            stop: Some(stop),
            task,
        }
    }

    /// An agent with a certificate of `authority`, issued so many days ago.
    async fn member(number: u128, authority: &Authority, days_ago: i64) -> Agent {
        let directory = tempfile::tempdir().unwrap();
        let clocks = Clocks::start();
        let node = id(number);
        let credentials = Credentials::open(directory.path(), node, clocks).unwrap();
        let at = Wall(clocks.wall().0 - days_ago * DAY_MS);
        let csr = credentials.csr().unwrap();
        let certificate = authority.issue(&csr, CLUSTER, node, at).unwrap();
        // Written past the checks of `install`, which would refuse an expired one.
        let files = TlsFiles::below(directory.path());
        let encode = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE", der));
        durable::write(&files.ca, encode(authority.ca_der()).as_bytes(), 0o644).unwrap();
        durable::write(&files.certificate, encode(&certificate).as_bytes(), 0o644).unwrap();
        let token = JoinToken::mint().unwrap();
        let agent = Agent::start_in(directory, number, &shop(), &token).await;
        assert_eq!(agent.credentials.cluster(), Some(CLUSTER));
        agent
    }

    /// Takes a new certificate of `authority` into use.
    fn renew(&self, authority: &Authority) {
        let csr = self.credentials.csr().unwrap();
        let now = self.clocks.wall();
        let certificate = authority.issue(&csr, CLUSTER, self.node, now).unwrap();
        let ca = vec![authority.ca_der().clone()];
        self.credentials.install(CLUSTER, certificate, ca).unwrap();
    }

    fn pairing(&self, token: &JoinToken) -> PairingClient {
        PairingClient::new(self.credentials.clone(), shop(), Some(token.clone()))
    }

    fn peers(&self) -> Peers {
        Peers::new(self.credentials.clone())
    }

    fn asked(&self) -> Vec<NodeId> {
        self.host.asked.lock().unwrap().clone()
    }
}
