//! Comparing tables on all members, for an operator, and this node's part of another's
//! comparison. The choices are made in `pgaa_core::verify`.

use super::node::Node;
use crate::events::Severity;
use crate::peer::{CompareAnswer, CompareAsk};
use crate::postgres::Flush;
use futures_util::future::try_join_all;
use pgaa_core::ids::NodeId;
use pgaa_core::state::NodeState;
use pgaa_core::status::SCHEMA_VERSION;
use pgaa_core::time::Mono;
use pgaa_core::verify::{
    Digest, Failure, Finding, Key, News, Range, Report, RowHash, TableReport, Tables, verify,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// How much news may wait for a reader who is slow; progress beyond that is not told.
const NEWS_MAX: usize = 64;

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// The longest rest between two ranges.
const REST_MAX: Duration = Duration::from_secs(1);

/// How long a heartbeat may take from any member to any other.
const FENCE_MAX: Duration = Duration::from_secs(60);

/// Between two looks at which heartbeats have arrived.
const FENCE_LOOK: Duration = Duration::from_millis(50);

/// This node's part of a comparison.
pub async fn answer(node: &Node, table: &str, ask: CompareAsk) -> anyhow::Result<CompareAnswer> {
    let sql = &node.postgres;
    Ok(match ask {
        CompareAsk::Digest(range) => {
            let (shape, digest) = sql.digest(table, &range).await?;
            CompareAnswer::Digest(shape, digest)
        }
        CompareAsk::Bound(range, step) => {
            CompareAnswer::Bound(sql.bound(table, &range, step).await?)
        }
        CompareAsk::Rows(range) => CompareAnswer::Rows(sql.hashed_rows(table, &range).await?),
        CompareAsk::Look(keys) => CompareAnswer::Rows(sql.hashed_keys(table, &keys).await?),
        CompareAsk::Beat => CompareAnswer::Beat(node.beat(Flush::Now).await?),
        CompareAsk::Heartbeats => {
            let heartbeats = sql.heartbeats().await?.into_iter();
            CompareAnswer::Heartbeats(
                heartbeats
                    .map(|(node, (_, number))| (node, number))
                    .collect(),
            )
        }
    })
}

/// Compares `tables`, or all replicated ones when none is named. Ends when nobody reads the news
/// any more.
pub fn start(node: &Arc<Node>, tables: Vec<String>, eager: bool) -> mpsc::Receiver<News> {
    let (news, reader) = mpsc::channel(NEWS_MAX);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let closed = news.clone();
        tokio::select! {
            () = compare_all(&node, &tables, eager, &news) => {}
            () = closed.closed() => {}
        }
    });
    reader
}

async fn compare_all(node: &Arc<Node>, wanted: &[String], eager: bool, news: &mpsc::Sender<News>) {
    let began = node.clocks.mono();
    let (members, left_out) = members(node);
    let names = members.iter().map(|member| member.name.clone()).collect();
    let chosen = choose(node, wanted);
    let count = chosen.len();
    let mut tables = Vec::with_capacity(count);
    for (place, table) in chosen.into_iter().enumerate() {
        let report = match table {
            Ok(name) => {
                let host = Mesh::new(node, &members, eager, (place + 1, count, news));
                match verify(&host, &name).await {
                    Ok(verdict) => TableReport::compared(&name, verdict),
                    Err(failure) => TableReport::failed(&name, failure.to_string()),
                }
            }
            Err((name, why)) => TableReport::failed(&name, why),
        };
        tables.push(report);
    }
    let took_ms = node.clocks.mono().since(began).as_millis();
    let report = Report {
        schema_version: SCHEMA_VERSION,
        nodes: names,
        left_out,
        tables,
        took_ms: u64::try_from(took_ms).unwrap_or(u64::MAX),
    };
    if report.finding() == Finding::Different {
        let rows: usize = report.tables.iter().map(|t| t.different.len()).sum();
        let text =
            format!("a comparison of all nodes found {rows} rows that differ: pgaa-agent verify");
        node.event(Severity::Critical, "rows_differ", text);
    }
    // Whoever asked has gone: the event stays.
    let _ = news.send(News::Report(report)).await;
}

/// The tables by the names that an operator gave: with or without the schema.
fn choose(node: &Node, wanted: &[String]) -> Vec<Result<String, (String, String)>> {
    let replicated = node.status.borrow().tables.replicated.clone();
    if wanted.is_empty() {
        return replicated.into_iter().map(Ok).collect();
    }
    let named = |name: &String| {
        let bare = |table: &&String| {
            let table = table
                .rsplit_once('.')
                .map_or(table.as_str(), |(_, bare)| bare);
            table == name.as_str()
        };
        let exact = replicated.iter().find(|table| *table == name);
        let mut bares = replicated.iter().filter(bare);
        match (exact, bares.next(), bares.next()) {
            (Some(table), _, _) | (None, Some(table), None) => Ok(table.clone()),
            (None, Some(_), Some(_)) => {
                let why = "several schemas have a table of that name: name it with its schema";
                Err((name.clone(), why.to_owned()))
            }
            (None, None, _) => {
                let why = "is not replicated; which tables are, and why others are not: \
                           pgaa-agent status";
                Err((name.clone(), why.to_owned()))
            }
        }
    };
    wanted.iter().map(named).collect()
}

#[derive(Debug, Clone)]
struct Member {
    node: NodeId,
    name: String,
    address: SocketAddr,
}

/// Who is compared, this node first, and which members aren't.
fn members(node: &Node) -> (Vec<Member>, Vec<String>) {
    let Some(roster) = node.knowledge.roster() else {
        return (
            Vec::new(),
            vec!["this node is in no cluster yet".to_owned()],
        );
    };
    let reach = node.knowledge.reach(node.clocks.mono());
    let (mut members, mut left_out) = (Vec::new(), Vec::new());
    for record in roster.records.values() {
        let name = record.name.to_string();
        let up = record.node == node.id()
            || reach.get(&record.node) == Some(&pgaa_core::observed::Reach::Up);
        if record.state != NodeState::Ready {
            left_out.push(format!("{name} is {}", record.state.word()));
        } else if !up {
            left_out.push(format!("{name} does not answer; see: pgaa-agent nodes"));
        } else {
            members.push(Member {
                node: record.node,
                name,
                address: record.endpoints.grpc,
            });
        }
    }
    members.sort_by_key(|member| (member.node != node.id(), member.name.clone()));
    (members, left_out)
}

/// The members, as a comparison of one table sees them.
struct Mesh<'a> {
    node: &'a Arc<Node>,
    members: &'a [Member],
    eager: bool,
    number: usize,
    count: usize,
    news: &'a mpsc::Sender<News>,
    /// What the table looks like here.
    shape: Mutex<Option<i64>>,
    rested: Mutex<Mono>,
    told: Mutex<Option<Mono>>,
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Mesh<'a> {
    fn new(
        node: &'a Arc<Node>,
        members: &'a [Member],
        eager: bool,
        (number, count, news): (usize, usize, &'a mpsc::Sender<News>),
    ) -> Mesh<'a> {
        Mesh {
            node,
            members,
            eager,
            number,
            count,
            news,
            shape: Mutex::new(None),
            rested: Mutex::new(node.clocks.mono()),
            told: Mutex::new(None),
        }
    }

    fn name(&self, of: NodeId) -> String {
        let found = self.members.iter().find(|member| member.node == of);
        found.map_or_else(|| of.short(), |member| member.name.clone())
    }

    async fn ask(
        &self,
        of: NodeId,
        table: &str,
        ask: CompareAsk,
    ) -> Result<CompareAnswer, Failure> {
        let answered = if of == self.node.id() {
            answer(self.node, table, ask).await
        } else {
            let found = self.members.iter().find(|member| member.node == of);
            match found {
                Some(member) => {
                    let peers = &self.node.peers;
                    let asked = peers.compare(of, member.address, (table, ask)).await;
                    asked.map_err(anyhow::Error::from)
                }
                None => Err(anyhow::anyhow!("it is no member")),
            }
        };
        answered.map_err(|error| Failure(format!("{}: {error:#}", self.name(of))))
    }

    fn unfit(&self, of: NodeId) -> Failure {
        let name = self.name(of);
        Failure(format!(
            "{name} answered something else than was asked; do both run the same version? \
             pgaa-agent nodes"
        ))
    }

    /// Do all that are compared have the same columns and key?
    fn fits(&self, of: NodeId, table: &str, shape: i64) -> Result<(), Failure> {
        let mut known = held(&self.shape);
        if *known.get_or_insert(shape) == shape {
            return Ok(());
        }
        Err(Failure(format!(
            "{table} has other columns, or another key, on {}; which: pgaa-agent status",
            self.name(of)
        )))
    }

    async fn beats(&self) -> Result<BTreeMap<NodeId, u64>, Failure> {
        let beat = async |of: NodeId| {
            let CompareAnswer::Beat(number) = self.ask(of, "", CompareAsk::Beat).await? else {
                return Err(self.unfit(of));
            };
            Ok((of, number))
        };
        let beats = self.members.iter().map(|member| beat(member.node));
        Ok(try_join_all(beats).await?.into_iter().collect())
    }

    /// The first member, and whose heartbeat it lacks.
    async fn lacking(
        &self,
        beats: &BTreeMap<NodeId, u64>,
    ) -> Result<Option<(NodeId, NodeId)>, Failure> {
        for member in self.members {
            let answer = self.ask(member.node, "", CompareAsk::Heartbeats).await?;
            let CompareAnswer::Heartbeats(arrived) = answer else {
                return Err(self.unfit(member.node));
            };
            let late = |(node, number): &(&NodeId, &u64)| {
                arrived.get(*node).is_none_or(|have| have < *number)
            };
            if let Some((from, _)) = beats.iter().find(late) {
                return Ok(Some((member.node, *from)));
            }
        }
        Ok(None)
    }
}

impl Tables for Mesh<'_> {
    fn me(&self) -> NodeId {
        self.node.id()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.members.iter().map(|member| member.node).collect()
    }

    async fn digest(&self, of: NodeId, table: &str, range: &Range) -> Result<Digest, Failure> {
        let CompareAnswer::Digest(shape, digest) = self
            .ask(of, table, CompareAsk::Digest(range.clone()))
            .await?
        else {
            return Err(self.unfit(of));
        };
        self.fits(of, table, shape)?;
        Ok(digest)
    }

    async fn bound(
        &self,
        of: NodeId,
        table: &str,
        range: &Range,
        step: u64,
    ) -> Result<Option<Key>, Failure> {
        let ask = CompareAsk::Bound(range.clone(), step);
        let CompareAnswer::Bound(bound) = self.ask(of, table, ask).await? else {
            return Err(self.unfit(of));
        };
        Ok(bound)
    }

    async fn rows(
        &self,
        of: NodeId,
        table: &str,
        range: &Range,
    ) -> Result<BTreeMap<Key, RowHash>, Failure> {
        let CompareAnswer::Rows(rows) =
            self.ask(of, table, CompareAsk::Rows(range.clone())).await?
        else {
            return Err(self.unfit(of));
        };
        Ok(rows)
    }

    async fn look(
        &self,
        of: NodeId,
        table: &str,
        keys: &[Key],
    ) -> Result<BTreeMap<Key, RowHash>, Failure> {
        let CompareAnswer::Rows(rows) =
            self.ask(of, table, CompareAsk::Look(keys.to_vec())).await?
        else {
            return Err(self.unfit(of));
        };
        Ok(rows)
    }

    async fn fence(&self) -> Result<(), Failure> {
        let beats = self.beats().await?;
        let began = self.node.clocks.mono();
        while let Some((at, from)) = self.lacking(&beats).await? {
            if self.node.clocks.mono().since(began) > FENCE_MAX {
                return Err(Failure(format!(
                    "what {} writes takes more than {} s to {}, so rows that differ can't be told \
                     from rows on their way; see: pgaa-agent topology",
                    self.name(from),
                    FENCE_MAX.as_secs(),
                    self.name(at)
                )));
            }
            sleep(FENCE_LOOK).await;
        }
        Ok(())
    }

    /// Half of the time is the applications': a range that took long because the nodes are busy
    /// is followed by a rest of the same length.
    async fn rest(&self) {
        let now = self.node.clocks.mono();
        let worked = now.since(*held(&self.rested));
        if !self.eager {
            sleep(worked.min(REST_MAX)).await;
        }
        *held(&self.rested) = self.node.clocks.mono();
    }

    fn compared(&self, table: &str, rows: u64, suspects: usize) {
        let now = self.node.clocks.mono();
        let mut told = held(&self.told);
        if told.is_some_and(|told| now.since(told) < TELL_EVERY) {
            return;
        }
        *told = Some(now);
        // Who reads slowly sees fewer lines.
        let _ = self.news.try_send(News::Progress {
            table: table.to_owned(),
            number: self.number,
            tables: self.count,
            rows,
            suspects,
        });
    }
}
