//! Comparing tables on all members, for an operator, and this node's part of another's
//! comparison. The choices are made in `pgaa_core::verify`.

use super::circle::Circle;
use super::kept::{Course, Kept, OnItsOwn, broken_off};
use super::node::Node;
use crate::events::Severity;
use crate::peer::{CompareAnswer, CompareAsk};
use crate::postgres::Flush;
use log::warn;
use pgaa_core::ids::NodeId;
use pgaa_core::status::SCHEMA_VERSION;
use pgaa_core::time::Mono;
use pgaa_core::verify::{
    Digest, Failure, Finding, Key, Mending, News, Progress, Range, Report, RowHash, TableReport,
    Tables, Verdict, Wish, rest_after, verify,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// How much news may wait for a reader who is slow; progress beyond that is not told.
const NEWS_MAX: usize = 64;

/// How often the progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

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
        CompareAsk::Pieces(tables, after) => {
            CompareAnswer::Pieces(sql.pieces(&tables, after.as_ref()).await?)
        }
        CompareAsk::Definitions(pieces, characters) => {
            CompareAnswer::Definitions(sql.definitions(&pieces, characters).await?)
        }
        CompareAsk::Orphans(range) => CompareAnswer::Orphans(sql.orphans_in(table, &range).await?),
        CompareAsk::OrphansAmong(keys) => CompareAnswer::Orphans(sql.orphans(table, &keys).await?),
    })
}

/// Compares tables, and mends them where that is wished. Ends when nobody reads the news any more,
/// and can be gone on with then.
pub fn start(node: &Arc<Node>, wish: Wish) -> anyhow::Result<mpsc::Receiver<News>> {
    let before = wish.resume.then(|| broken_off(node)).transpose()?;
    let (news, reader) = mpsc::channel(NEWS_MAX);
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let closed = news.clone();
        tokio::select! {
            () = compare_all(&node, (wish, before), &news) => {}
            () = closed.closed() => {}
        }
    });
    Ok(reader)
}

async fn compare_all(
    node: &Arc<Node>,
    (wish, before): (Wish, Option<Course>),
    news: &mpsc::Sender<News>,
) {
    let (circle, left_out) = Circle::gather(node);
    let at_once = before.is_none();
    let wish = before.as_ref().map_or(wish, |before| before.wish.clone());
    let kept = match before {
        Some(course) => Kept::go_on(node, course),
        None => Kept::begin(node, wish.clone(), circle.nodes()),
    };
    let names = circle.names();
    let (structure, tables) = tokio::join!(
        super::structure::compare(&circle, &wish.tables),
        each_table((&circle, &left_out), (&kept, &wish), news)
    );
    // Behind what was mended.
    let compared: Vec<String> = tables.iter().map(|table| table.table.clone()).collect();
    let known = circle.node().status.borrow().tables.replicated.clone();
    let compared: Vec<String> = compared.into_iter().filter(|t| known.contains(t)).collect();
    let orphans = super::orphans::look(&circle, &compared, wish.eager).await;
    let report = Report {
        schema_version: SCHEMA_VERSION,
        nodes: names,
        left_out,
        tables,
        took_ms: kept.took_ms(),
        structure: Some(structure),
        orphans: Some(orphans),
        resumable: kept.close(),
    };
    if report.finding() == Finding::Different && wish.mending != Mending::Done {
        let rows: usize = report.tables.iter().map(|t| t.different.len()).sum();
        let text =
            format!("a comparison of all nodes found {rows} rows that differ: pgaa-agent verify");
        node.event(Severity::Critical, "rows_differ", text);
    }
    // One that goes on says nothing of what came apart in its earlier part since.
    let whole = at_once && wish.tables.is_empty() && report.left_out.is_empty();
    let mut found = report.tables.iter().map(TableReport::finding);
    if whole && found.all(|one| one == Finding::Equal) {
        let took = Duration::from_millis(report.took_ms);
        if let Err(error) = super::conflicts::close_gap(node, Some(took)).await {
            warn!("the gap in the log stays noted: {error:#}");
        }
    }
    // Whoever asked has gone: the event stays.
    let _ = news.send(News::Report(report)).await;
}

async fn each_table(
    (circle, left_out): (&Circle<'_>, &[String]),
    (kept, wish): (&Kept<'_>, &Wish),
    news: &mpsc::Sender<News>,
) -> Vec<TableReport> {
    let chosen = choose(circle.node(), &wish.tables);
    let count = chosen.len();
    let mut tables = Vec::with_capacity(count);
    for (place, table) in chosen.into_iter().enumerate() {
        let report = match table {
            Ok(name) => {
                let place = (place + 1, count, news);
                one_table((circle, left_out), (kept, wish), &name, place).await
            }
            Err((name, why)) => TableReport::failed(&name, why),
        };
        tables.push(report);
    }
    tables
}

/// Compares one table, from where it was broken off.
async fn one_table(
    (circle, left_out): (&Circle<'_>, &[String]),
    (kept, wish): (&Kept<'_>, &Wish),
    name: &str,
    place: (usize, usize, &mpsc::Sender<News>),
) -> TableReport {
    if let Some(report) = kept.finished(name) {
        return report;
    }
    let compared = match kept.parted(circle) {
        Some(why) => Err(Failure(why)),
        None => {
            let note = |shape, done: &Progress| kept.note(name, shape, done);
            let host = Mesh::new(circle, wish.eager, place, &note);
            verify(&host, name, &mut kept.part(name).await).await
        }
    };
    let mut report = match compared {
        Ok(verdict) => TableReport::compared(name, verdict),
        Err(failure) => TableReport::failed(name, failure.to_string()),
    };
    super::rows::treat(circle.node(), (circle, left_out), &mut report, wish.mending).await;
    kept.finish(&report);
    report
}

/// Compares a table as a whole, of this node's own accord, from where it was broken off; `naming`
/// stands for why.
pub async fn on_its_own(circle: &Circle<'_>, table: &str, naming: i64) -> Result<Verdict, Failure> {
    // Nobody reads the news.
    let (news, _) = mpsc::channel(1);
    let own = OnItsOwn::new(circle, table, naming);
    let note = |shape, done: &Progress| own.note(shape, done, false);
    let host = Mesh::new(circle, false, (1, 1, &news), &note);
    let mut done = own.part().await;
    let compared = verify(&host, table, &mut done).await;
    match (&compared, *held(&host.shape)) {
        (Ok(_), _) => own.close(),
        (Err(_), Some(shape)) => own.note(shape, &done, true),
        (Err(_), None) => {}
    }
    compared
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

/// The members, as a comparison of one table sees them.
struct Mesh<'a> {
    node: &'a Arc<Node>,
    circle: &'a Circle<'a>,
    eager: bool,
    number: usize,
    count: usize,
    news: &'a mpsc::Sender<News>,
    /// What the table looks like here.
    shape: Mutex<Option<i64>>,
    rested: Mutex<Mono>,
    told: Mutex<Option<Mono>>,
    /// Keeps how far it has come, by what the table looks like.
    note: &'a (dyn Fn(i64, &Progress) + Sync),
}

fn held<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Mesh<'a> {
    /// What is compared is told to `news`, as table `number` of `count`; with `eager` there are no
    /// rests. `note` keeps how far it has come.
    fn new(
        circle: &'a Circle<'a>,
        eager: bool,
        (number, count, news): (usize, usize, &'a mpsc::Sender<News>),
        note: &'a (dyn Fn(i64, &Progress) + Sync),
    ) -> Mesh<'a> {
        let node = circle.node();
        Mesh {
            node,
            circle,
            eager,
            number,
            count,
            news,
            shape: Mutex::new(None),
            rested: Mutex::new(node.clocks.mono()),
            told: Mutex::new(None),
            note,
        }
    }

    /// Do all that are compared have the same columns and key?
    fn fits(&self, of: NodeId, table: &str, shape: i64) -> Result<(), Failure> {
        let mut known = held(&self.shape);
        if *known.get_or_insert(shape) == shape {
            return Ok(());
        }
        Err(Failure(format!(
            "{table} has other columns, or another key, on {}; which: pgaa-agent status",
            self.circle.name(of)
        )))
    }
}

impl Tables for Mesh<'_> {
    fn me(&self) -> NodeId {
        self.node.id()
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.circle.nodes()
    }

    async fn digest(&self, of: NodeId, table: &str, range: &Range) -> Result<Digest, Failure> {
        let CompareAnswer::Digest(shape, digest) = self
            .circle
            .compare(of, table, CompareAsk::Digest(range.clone()))
            .await?
        else {
            return Err(self.circle.unfit(of));
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
        let CompareAnswer::Bound(bound) = self.circle.compare(of, table, ask).await? else {
            return Err(self.circle.unfit(of));
        };
        Ok(bound)
    }

    async fn rows(
        &self,
        of: NodeId,
        table: &str,
        range: &Range,
    ) -> Result<BTreeMap<Key, RowHash>, Failure> {
        let CompareAnswer::Rows(rows) = self
            .circle
            .compare(of, table, CompareAsk::Rows(range.clone()))
            .await?
        else {
            return Err(self.circle.unfit(of));
        };
        Ok(rows)
    }

    async fn look(
        &self,
        of: NodeId,
        table: &str,
        keys: &[Key],
    ) -> Result<BTreeMap<Key, RowHash>, Failure> {
        let CompareAnswer::Rows(rows) = self
            .circle
            .compare(of, table, CompareAsk::Look(keys.to_vec()))
            .await?
        else {
            return Err(self.circle.unfit(of));
        };
        Ok(rows)
    }

    async fn fence(&self) -> Result<(), Failure> {
        self.circle.fence().await
    }

    async fn rest(&self) {
        crate::failpoint::reached("range_compared").await;
        let now = self.node.clocks.mono();
        let worked = now.since(*held(&self.rested));
        if !self.eager {
            sleep(rest_after(worked, super::pressure::of_processors())).await;
        }
        *held(&self.rested) = self.node.clocks.mono();
    }

    fn compared(&self, table: &str, done: &Progress) {
        if let Some(shape) = *held(&self.shape) {
            (self.note)(shape, done);
        }
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
            rows: done.rows,
            suspects: done.suspects.len(),
        });
    }
}
