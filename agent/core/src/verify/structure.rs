//! Compares what the nodes' databases are made of: schema changes aren't replicated, so a node
//! may lack an index, a column's default or a privilege.
//!
//! A change that is being made on one node after the other looks like a difference. So pieces that
//! aren't the same everywhere are looked at again, and count when two such looks saw the same.
//! Must not know what a piece is, nor how it is read.

use super::{Failure, RowHash, Sighting};
use crate::ids::NodeId;
use futures_util::future::{join_all, try_join_all};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

/// Pieces that are looked at again. With more the databases have nothing to do with one another.
const SUSPECTS_MAX: usize = 5_000;

/// Pieces whose definitions are fetched and told.
const TOLD_MAX: usize = 500;

/// Pieces that are looked at by one call.
const BATCH: usize = 1_000;

/// Definitions that are fetched by one call: none is longer than [`CHARACTERS_MAX`].
const TEXTS: usize = 50;

/// Of a definition so much is fetched, characters: a function has its difference somewhere.
const CHARACTERS_MAX: u32 = 10_000;

/// How often suspects are looked at, a rest before each.
const LOOKS: u32 = 6;

/// What is told first: others are parts of it.
const KINDS: [&str; 11] = [
    "role",
    "database",
    "schema",
    "extension",
    "type",
    "function",
    "table",
    "view",
    "column",
    "constraint",
    "index",
];

/// What a piece is called. Ordered as the nodes list them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName {
    /// index, column, privileges and so on.
    pub kind: String,
    /// schema.table.column, say, quoted where needed.
    pub name: String,
}

impl PieceName {
    fn rank(&self) -> (usize, &PieceName) {
        let place = KINDS.iter().position(|kind| *kind == self.kind);
        (place.unwrap_or(KINDS.len()), self)
    }

    /// How others name it that are a part of it.
    fn whole(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }
}

/// Some of the pieces of a node's database, and whether there are more behind them.
pub type Pieces = (BTreeMap<PieceName, RowHash>, bool);

/// A piece on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The hash of all of it.
    pub hash: RowHash,
    /// Its beginning.
    pub text: String,
    /// "kind name" of what it is a part of.
    pub within: Vec<String>,
}

/// The nodes whose databases are compared.
pub trait Structures: Sync {
    /// All of them.
    fn nodes(&self) -> Vec<NodeId>;
    /// The pieces of a node's database behind one of them, in their order; as many as fit.
    fn pieces(
        &self,
        node: NodeId,
        after: Option<&PieceName>,
    ) -> impl Future<Output = Result<Pieces, Failure>> + Send;
    /// These pieces, as far as they are there, with the first `characters` of their definitions.
    fn definitions(
        &self,
        node: NodeId,
        pieces: &[PieceName],
        characters: u32,
    ) -> impl Future<Output = Result<BTreeMap<PieceName, Definition>, Failure>> + Send;
    /// Rests for a second: a schema change is on its way from node to node.
    fn rest(&self) -> impl Future<Output = ()> + Send;
}

/// A piece that is not the same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlike {
    /// Which.
    pub piece: PieceName,
    /// What each node has, in the order of [`Outcome::nodes`].
    pub held: Sighting,
    /// The beginnings of its definitions.
    pub texts: Vec<(RowHash, String)>,
}

/// What came of a comparison of structures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Who was compared.
    pub nodes: Vec<NodeId>,
    /// Who was not, and why; failures name the node.
    pub left_out: Vec<(NodeId, Failure)>,
    /// What differs, whole before part.
    pub unlike: Vec<Unlike>,
    /// How many more differ.
    pub more: usize,
}

/// Who failed, so that the others are compared without it.
type Failed = (NodeId, Failure);

/// Compares the structures of all nodes. A node that can't answer is left out.
pub async fn structure<H: Structures>(host: &H) -> Outcome {
    let mut outcome = Outcome {
        nodes: host.nodes(),
        ..Outcome::default()
    };
    while outcome.nodes.len() > 1 {
        match among(host, &outcome.nodes).await {
            Ok((unlike, more)) => {
                (outcome.unlike, outcome.more) = (unlike, more);
                return outcome;
            }
            Err(failed) => {
                outcome.nodes.retain(|node| *node != failed.0);
                outcome.left_out.push(failed);
            }
        }
    }
    outcome
}

async fn among<H: Structures>(host: &H, nodes: &[NodeId]) -> Result<(Vec<Unlike>, usize), Failed> {
    let mut suspects: Vec<PieceName> = suspects(host, nodes).await?.into_iter().collect();
    suspects.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let beyond = suspects.len().saturating_sub(SUSPECTS_MAX);
    suspects.truncate(SUSPECTS_MAX);
    let mut found = without_parts(settle(host, nodes, suspects).await?);
    found.sort_by(|one, other| one.0.rank().cmp(&other.0.rank()));
    let more = beyond + found.len().saturating_sub(TOLD_MAX);
    found.truncate(TOLD_MAX);
    let mut told = Vec::with_capacity(found.len());
    for batch in found.chunks(TEXTS) {
        told.extend(with_texts(host, nodes, batch).await?);
    }
    Ok((told, more))
}

/// The pieces that aren't the same everywhere at first sight. All nodes are read side by side, so
/// that no more than a page of each is held.
async fn suspects<H: Structures>(
    host: &H,
    nodes: &[NodeId],
) -> Result<BTreeSet<PieceName>, Failed> {
    let mut unlike = BTreeSet::new();
    let mut after: Option<PieceName> = None;
    loop {
        let asked = nodes.iter().map(|node| page(host, *node, after.as_ref()));
        let pages = try_join_all(asked).await?;
        // Beyond the end of the shortest page nothing is known of all.
        let ends = pages.iter().filter(|(_, more)| *more);
        let end = ends.filter_map(|(page, _)| page.keys().next_back()).min();
        let end = end.cloned();
        let known = |name: &PieceName| end.as_ref().is_none_or(|end| name <= end);
        let names: BTreeSet<&PieceName> = pages.iter().flat_map(|(page, _)| page.keys()).collect();
        for name in names.into_iter().filter(|name| known(name)) {
            let mut held = pages.iter().map(|(page, _)| page.get(name));
            let first = held.next();
            if held.any(|one| Some(one) != first) {
                unlike.insert(name.clone());
            }
        }
        match end {
            Some(end) => after = Some(end),
            None => return Ok(unlike),
        }
    }
}

async fn page<H: Structures>(
    host: &H,
    node: NodeId,
    after: Option<&PieceName>,
) -> Result<Pieces, Failed> {
    let (pieces, more) = host.pieces(node, after).await.map_err(|why| (node, why))?;
    let begins = pieces.keys().next();
    let goes_on = match (begins, after) {
        (None, _) => !more,
        (Some(first), Some(after)) => first > after,
        (Some(_), None) => true,
    };
    if goes_on {
        return Ok((pieces, more));
    }
    let text = format!(
        "{} lists its structure over and over; upgrade pgaa-agent there",
        node.short()
    );
    Err((node, Failure(text)))
}

type Found = (PieceName, Sighting, Vec<String>);

/// What the nodes have of these pieces now: those that aren't the same everywhere.
async fn look<H: Structures>(
    host: &H,
    nodes: &[NodeId],
    pieces: &[PieceName],
) -> Result<Vec<Found>, Failed> {
    let mut found = Vec::new();
    for batch in pieces.chunks(BATCH) {
        let all = everywhere(host, nodes, (batch, 0)).await?;
        for piece in batch {
            let here: Vec<Option<&Definition>> = all.iter().map(|node| node.get(piece)).collect();
            let held: Sighting = here.iter().map(|one| one.map(|one| one.hash)).collect();
            if held.windows(2).any(|pair| pair[0] != pair[1]) {
                let within = here.into_iter().flatten().next();
                let within = within.map(|one| one.within.clone()).unwrap_or_default();
                found.push((piece.clone(), held, within));
            }
        }
    }
    Ok(found)
}

async fn everywhere<H: Structures>(
    host: &H,
    nodes: &[NodeId],
    (pieces, characters): (&[PieceName], u32),
) -> Result<Vec<BTreeMap<PieceName, Definition>>, Failed> {
    let asked = nodes
        .iter()
        .map(|node| host.definitions(*node, pieces, characters));
    let answers = join_all(asked).await.into_iter().zip(nodes);
    answers
        .map(|(answer, node)| answer.map_err(|why| (*node, why)))
        .collect()
}

/// Tells differences from changes on their way.
async fn settle<H: Structures>(
    host: &H,
    nodes: &[NodeId],
    suspects: Vec<PieceName>,
) -> Result<Vec<Found>, Failed> {
    let mut open = suspects;
    let mut before: BTreeMap<PieceName, Sighting> = BTreeMap::new();
    let mut settled = Vec::new();
    for round in 1..=LOOKS {
        if open.is_empty() {
            break;
        }
        host.rest().await;
        let seen = look(host, nodes, &open).await?;
        open.clear();
        for one in seen {
            // What still changes at the last look differs all the same.
            if round == LOOKS || before.get(&one.0) == Some(&one.1) {
                settled.push(one);
            } else {
                open.push(one.0.clone());
                before.insert(one.0, one.1);
            }
        }
    }
    Ok(settled)
}

/// Where a node lacks a table, it lacks its columns, its indexes and its owner as well: they go
/// without saying.
fn without_parts(found: Vec<Found>) -> Vec<Found> {
    let wholes: BTreeMap<String, Sighting> = found
        .iter()
        .map(|(piece, held, _)| (piece.whole(), held.clone()))
        .collect();
    let goes_without_saying = |(_, held, within): &Found| {
        let mut present = held.iter().flatten();
        let first = present.next();
        let alike = present.all(|one| Some(one) == first);
        let lacks = |held: &Sighting| held.iter().map(Option::is_none).collect::<Vec<bool>>();
        let absent = |whole: &String| wholes.get(whole).is_some_and(|w| lacks(w) == lacks(held));
        alike && held.contains(&None) && within.iter().any(absent)
    };
    let mut kept = found;
    kept.retain(|one| !goes_without_saying(one));
    kept
}

async fn with_texts<H: Structures>(
    host: &H,
    nodes: &[NodeId],
    batch: &[Found],
) -> Result<Vec<Unlike>, Failed> {
    let pieces: Vec<PieceName> = batch.iter().map(|(piece, _, _)| piece.clone()).collect();
    let all = everywhere(host, nodes, (&pieces, CHARACTERS_MAX)).await?;
    let told = batch.iter().map(|(piece, held, _)| {
        let mut texts: Vec<(RowHash, String)> = Vec::new();
        for hash in held.iter().flatten() {
            let known = texts.iter().any(|(known, _)| known == hash);
            let mut here = all.iter().filter_map(|node| node.get(piece));
            if let (false, Some(one)) = (known, here.find(|one| one.hash == *hash)) {
                texts.push((*hash, one.text.clone()));
            }
        }
        Unlike {
            piece: piece.clone(),
            held: held.clone(),
            texts,
        }
    });
    Ok(told.collect())
}
