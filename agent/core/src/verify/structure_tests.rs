//! Against structures in memory that change while they are compared.

use super::{Definition, Failure, Outcome, PieceName, Pieces, Structures, structure};
use crate::ids::NodeId;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use uuid::Uuid;

/// What a node has: definitions, and what each is a part of.
type Made = BTreeMap<PieceName, (String, Vec<String>)>;

/// A change of the model by a rest.
type Change = Box<dyn Fn(&mut Vec<Made>, u32) + Send + Sync>;

struct Model {
    made: Mutex<Vec<Made>>,
    rests: Mutex<u32>,
    /// Pieces of a page: few, so that the nodes' pages end at different places.
    page: usize,
    /// Fails with each question.
    old: Option<usize>,
    change: Change,
}

fn node(number: usize) -> NodeId {
    NodeId(Uuid::from_u128(number as u128 + 1))
}

fn piece(kind: &str, name: &str) -> PieceName {
    PieceName {
        kind: kind.to_owned(),
        name: name.to_owned(),
    }
}

fn set(made: &mut Made, (kind, name): (&str, &str), text: &str, within: &[&str]) {
    let within = within.iter().map(|text| (*text).to_owned()).collect();
    made.insert(piece(kind, name), (text.to_owned(), within));
}

fn hash(text: &str) -> [i64; 2] {
    let one = text.bytes().fold(7_i64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(i64::from(byte))
    });
    [one, !one]
}

/// Nodes that are made alike: tables with columns and an index each.
fn alike(nodes: usize) -> Model {
    let mut made = Made::new();
    for table in ["t1", "t2", "t3", "t4"] {
        let whole = format!("table {table}");
        set(&mut made, ("table", table), "table", &["schema s"]);
        for column in ["a", "b", "c"] {
            let name = format!("{table}.{column}");
            set(&mut made, ("column", &name), "integer", &[&whole]);
            let privileges = format!("column {name} to x");
            let within = format!("column {name}");
            set(&mut made, ("privileges", &privileges), "SELECT", &[&within]);
        }
        let name = format!("{table}_by_a");
        set(&mut made, ("index", &name), "CREATE INDEX", &[&whole]);
        let name = format!("table {table}");
        set(&mut made, ("owner", &name), "postgres", &[&whole]);
    }
    Model {
        made: Mutex::new(vec![made; nodes]),
        rests: Mutex::new(0),
        page: 3,
        old: None,
        change: Box::new(|_, _| ()),
    }
}

impl Model {
    fn on(&self, node: usize, change: impl FnOnce(&mut Made)) {
        change(&mut self.made.lock().unwrap()[node]);
    }

    fn of(&self, node: NodeId) -> Result<Made, Failure> {
        let index = usize::try_from(node.0.as_u128() - 1).unwrap();
        match self.old == Some(index) {
            true => Err(Failure("upgrade it".to_owned())),
            false => Ok(self.made.lock().unwrap()[index].clone()),
        }
    }
}

impl Structures for Model {
    fn nodes(&self) -> Vec<NodeId> {
        (0..self.made.lock().unwrap().len()).map(node).collect()
    }

    async fn pieces(&self, of: NodeId, after: Option<&PieceName>) -> Result<Pieces, Failure> {
        let made = self.of(of)?;
        let behind = made
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| *name > after));
        let all: Vec<_> = behind
            .map(|(name, (text, _))| (name.clone(), hash(text)))
            .collect();
        let more = all.len() > self.page;
        Ok((all.into_iter().take(self.page).collect(), more))
    }

    async fn definitions(
        &self,
        of: NodeId,
        pieces: &[PieceName],
        characters: u32,
    ) -> Result<BTreeMap<PieceName, Definition>, Failure> {
        let mut made = self.of(of)?;
        made.retain(|name, _| pieces.contains(name));
        let define = |(name, (text, within)): (PieceName, (String, Vec<String>))| {
            let told = text.chars().take(characters as usize).collect();
            let hash = hash(&text);
            let definition = Definition {
                hash,
                text: told,
                within,
            };
            (name, definition)
        };
        Ok(made.into_iter().map(define).collect())
    }

    async fn rest(&self) {
        let mut rests = self.rests.lock().unwrap();
        *rests += 1;
        (self.change)(&mut self.made.lock().unwrap(), *rests);
    }
}

fn run(model: &Model) -> Outcome {
    let mut work = pin!(structure(model));
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("the model never waits"),
    }
}

fn names(outcome: &Outcome) -> Vec<String> {
    let unlike = outcome.unlike.iter();
    unlike
        .map(|one| format!("{} {}", one.piece.kind, one.piece.name))
        .collect()
}

#[test]
fn nodes_that_are_made_alike_are_looked_at_once() {
    let model = alike(3);
    let outcome = run(&model);
    assert_eq!(outcome.nodes.len(), 3);
    assert!(outcome.unlike.is_empty() && outcome.left_out.is_empty());
    assert_eq!(*model.rests.lock().unwrap(), 0);
}

#[test]
fn what_differs_is_named_with_what_each_node_has() {
    let model = alike(3);
    model.on(1, |made| {
        made.remove(&piece("index", "t2_by_a"));
        set(made, ("column", "t4.c"), "bigint", &["table t4"]);
    });
    model.on(2, |made| {
        set(made, ("zebra", "a new kind"), "z", &[]);
        set(made, ("column", "t4.c"), "text", &["table t4"]);
    });
    let outcome = run(&model);
    let expected = ["column t4.c", "index t2_by_a", "zebra a new kind"];
    assert_eq!(names(&outcome), expected);
    let column = &outcome.unlike[0];
    let texts: Vec<&str> = column.texts.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["integer", "bigint", "text"]);
    let index = Some(hash("CREATE INDEX"));
    assert_eq!(outcome.unlike[1].held, [index, None, index]);
    assert_eq!(outcome.unlike[2].held, [None, None, Some(hash("z"))]);
}

#[test]
fn what_a_missing_piece_consists_of_goes_without_saying() {
    let model = alike(3);
    model.on(1, |made| {
        made.retain(|name, (_, within)| {
            let of_t1 = |text: &str| text.contains("t1");
            !of_t1(&name.name) && !within.iter().any(|whole| of_t1(whole))
        });
    });
    model.on(2, |made| {
        let t1 = "table t1";
        set(made, ("column", "t1.b"), "text", &[t1]);
        set(made, ("column", "t1.extra"), "text", &[t1]);
        set(
            made,
            ("owner", "column t1.extra"),
            "x",
            &["column t1.extra"],
        );
    });
    let outcome = run(&model);
    // Two nodes have another column b, and one has one more: that doesn't follow from the first.
    assert_eq!(
        names(&outcome),
        ["table t1", "column t1.b", "column t1.extra"]
    );
}

#[test]
fn a_change_that_goes_from_node_to_node_is_no_difference() {
    let mut model = alike(4);
    let add = |made: &mut Made| set(made, ("index", "t1_by_b"), "CREATE INDEX", &["table t1"]);
    model.on(0, add);
    model.change = Box::new(move |made, rests| {
        if let Some(made) = made.get_mut(rests as usize) {
            add(made);
        }
    });
    assert_eq!(names(&run(&model)), Vec::<String>::new());
    assert!(*model.rests.lock().unwrap() >= 3);
    let mut model = alike(2);
    model.change = Box::new(|made, rests| {
        let text = format!("{rests}");
        set(&mut made[0], ("index", "t1_by_a"), &text, &["table t1"]);
    });
    model.on(0, |made| {
        set(made, ("index", "t1_by_a"), "0", &["table t1"])
    });
    assert_eq!(names(&run(&model)), ["index t1_by_a"], "it never rests");
}

#[test]
fn a_node_that_does_not_know_the_question_is_left_out() {
    let mut model = alike(3);
    model.old = Some(1);
    model.on(2, |made| {
        made.remove(&piece("index", "t2_by_a"));
    });
    let outcome = run(&model);
    assert_eq!(outcome.nodes, [node(0), node(2)]);
    assert_eq!(outcome.left_out.len(), 1);
    assert_eq!(names(&outcome), ["index t2_by_a"]);
    let mut model = alike(2);
    model.old = Some(0);
    let outcome = run(&model);
    assert_eq!((outcome.nodes.len(), outcome.left_out.len()), (1, 1));
}

/// Answers a page over and over.
struct Endless(Model);

impl Structures for Endless {
    fn nodes(&self) -> Vec<NodeId> {
        self.0.nodes()
    }

    async fn pieces(&self, of: NodeId, _: Option<&PieceName>) -> Result<Pieces, Failure> {
        let (pieces, _) = self.0.pieces(of, None).await?;
        Ok((pieces, true))
    }

    async fn definitions(
        &self,
        of: NodeId,
        pieces: &[PieceName],
        characters: u32,
    ) -> Result<BTreeMap<PieceName, Definition>, Failure> {
        self.0.definitions(of, pieces, characters).await
    }

    async fn rest(&self) {
        self.0.rest().await;
    }
}

#[test]
fn a_node_that_never_ends_is_left_out() {
    let endless = Endless(alike(2));
    let mut work = pin!(structure(&endless));
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => assert_eq!(outcome.left_out.len(), 1, "the other is alone then"),
        Poll::Pending => panic!("the model never waits"),
    }
}

#[test]
fn many_differences_are_told_in_part_and_counted() {
    let mut model = alike(2);
    model.page = 4_000;
    model.on(1, |made| {
        for number in 0..6_000 {
            let name = format!("t1.{number:05}");
            set(made, ("policy", &name), "p", &[]);
        }
        set(made, ("table", "other"), "table", &[]);
    });
    let outcome = run(&model);
    assert_eq!(outcome.unlike.len() + outcome.more, 6_001);
    assert_eq!(outcome.unlike.len(), 500);
    assert_eq!(
        names(&outcome)[0],
        "table other",
        "the whole before its parts"
    );
}
