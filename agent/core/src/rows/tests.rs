//! The rule, case by case, and rounds on nodes that are played.

use super::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use uuid::Uuid;

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn nodes() -> Vec<NodeId> {
    (1..=3).map(node).collect()
}

fn stamp(at_us: i64, author: u128) -> Stamp {
    Stamp {
        at_us,
        author: node(author),
    }
}

/// A row with this content.
fn row(content: i64, stamp: Option<Stamp>) -> Seen {
    Seen {
        row: Some(Version {
            stamp,
            hash: [content, 0],
            token: 7,
            mended: false,
        }),
        ..Seen::default()
    }
}

fn none() -> Seen {
    Seen::default()
}

fn deleted(at_us: i64, seen: Seen) -> Seen {
    Seen {
        deleted_us: Some(at_us),
        ..seen
    }
}

#[test]
fn what_is_equal_stays_whatever_its_stamps() {
    let seen = [
        row(1, Some(stamp(5, 1))),
        row(1, None),
        row(1, Some(stamp(9, 2))),
    ];
    assert_eq!(judge(&nodes(), &seen), Ruling::Equal);
    assert_eq!(judge(&nodes(), &[none(), none(), none()]), Ruling::Equal);
}

#[test]
fn what_is_live_at_its_author_stays_even_if_something_newer_survives_elsewhere() {
    let old = stamp(5, 1);
    let newer = Some(stamp(9, 2));
    let seen = [row(1, Some(old)), row(2, newer), none()];
    // The newer one is live at its own author, too: clocks were wrong, and the older one stays.
    assert_eq!(judge(&nodes(), &seen), Ruling::Stays(0, Reason::OldestLive));
    let seen = [row(1, Some(old)), none(), row(2, newer)];
    assert_eq!(
        judge(&nodes(), &seen),
        Ruling::Stays(0, Reason::LiveAtAuthor)
    );
}

#[test]
fn a_later_delete_of_any_node_wins_over_what_is_gone_at_its_author() {
    let survivor = row(1, Some(stamp(5, 1)));
    let seen = [none(), deleted(6, none()), survivor];
    assert_eq!(judge(&nodes(), &seen), Ruling::Goes(Reason::DeletedLater));
    // The same time: the node decides.
    let seen = [none(), deleted(5, none()), survivor];
    assert_eq!(judge(&nodes(), &seen), Ruling::Goes(Reason::DeletedLater));
}

#[test]
fn an_earlier_delete_that_hit_a_newer_row_is_undone() {
    let survivor = row(1, Some(stamp(5, 1)));
    let seen = [none(), deleted(4, none()), survivor];
    assert_eq!(
        judge(&nodes(), &seen),
        Ruling::Stays(2, Reason::DeletedEarlier)
    );
}

#[test]
fn the_newest_of_the_survivors_counts() {
    let seen = [row(2, Some(stamp(8, 3))), row(1, Some(stamp(5, 1))), none()];
    assert_eq!(
        judge(&nodes(), &seen),
        Ruling::Stays(0, Reason::DeletedEarlier)
    );
}

#[test]
fn what_a_repair_put_there_is_no_witness() {
    let mut mended = row(1, Some(stamp(5, 1)));
    mended.row.as_mut().unwrap().mended = true;
    let seen = [mended, deleted(6, none()), none()];
    assert_eq!(judge(&nodes(), &seen), Ruling::Goes(Reason::DeletedLater));
    let seen = [mended, deleted(4, none()), none()];
    assert_eq!(
        judge(&nodes(), &seen),
        Ruling::Stays(0, Reason::DeletedEarlier)
    );
}

#[test]
fn an_own_delete_is_remembered_until_nobodys_orders_are_on_their_way() {
    let (young, old) = (Duration::from_secs(9), Duration::from_secs(10));
    assert_eq!(fate(Some(young), false), Fate::Stays);
    assert_eq!(fate(Some(old), true), Fate::OrdersOver);
    assert_eq!(fate(None, true), Fate::Stays);
    assert_eq!(fate(None, false), Fate::Goes);
}

#[test]
fn an_order_is_valid_for_a_while_and_for_the_same_run_of_an_agent() {
    let looked = Moment {
        run: 1,
        at_ms: 1_000,
    };
    let now = |run, at_ms| looked.valid_for(Moment { run, at_ms });
    assert_eq!(now(1, 2_000), Some(Duration::from_secs(4)));
    assert_eq!(now(1, 6_001), None);
    assert_eq!(now(1, 999), None);
    assert_eq!(now(2, 1_000), None);
}

#[test]
fn with_a_gap_in_the_deletes_the_author_decides() {
    let survivor = row(1, Some(stamp(5, 1)));
    let gap = Seen {
        deletes_since_us: Some(6),
        ..none()
    };
    let seen = [none(), gap, survivor];
    assert_eq!(judge(&nodes(), &seen), Ruling::Goes(Reason::DeletesUnknown));
    let known = Seen {
        deletes_since_us: Some(5),
        ..none()
    };
    let seen = [none(), known, survivor];
    assert_eq!(
        judge(&nodes(), &seen),
        Ruling::Stays(2, Reason::DeletedEarlier)
    );
}

/// It was forgotten, and what it wrote last has reached one node only.
#[test]
fn what_a_node_that_is_gone_wrote_stays_unless_it_was_deleted_later() {
    let last = row(2, Some(stamp(9, 77)));
    let stays = Ruling::Stays(1, Reason::AuthorGone);
    assert_eq!(judge(&nodes(), &[none(), last, none()]), stays);
    // Of a row of another node, and of one that came with a copy.
    let older = row(1, Some(stamp(5, 1)));
    assert_eq!(judge(&nodes(), &[older, last, older]), stays);
    assert_eq!(judge(&nodes(), &[row(1, None), last, row(1, None)]), stays);
    let newer = row(1, Some(stamp(10, 1)));
    let live = Ruling::Stays(0, Reason::LiveAtAuthor);
    assert_eq!(judge(&nodes(), &[newer, last, newer]), live);
    let deleted = Seen {
        deleted_us: Some(10),
        ..none()
    };
    let goes = Ruling::Goes(Reason::DeletedLater);
    assert_eq!(judge(&nodes(), &[none(), last, deleted]), goes);
    // After that delete it has arrived everywhere: where it was written nobody can look any more.
    let back = Seen {
        deleted_us: Some(10),
        ..last
    };
    assert_eq!(judge(&nodes(), &[last, last, back]), goes);
    assert_eq!(judge(&nodes(), &[last, last, last]), Ruling::Equal);
    // Whether it was deleted is not known any more.
    let gap = Seen {
        deletes_since_us: Some(10),
        ..none()
    };
    let goes = Ruling::Goes(Reason::Majority);
    assert_eq!(judge(&nodes(), &[none(), last, gap]), goes);
}

#[test]
fn of_versions_nobody_knows_the_majority_decides_and_a_known_one_beats_them() {
    let seen = [row(1, None), row(2, None), row(2, None)];
    assert_eq!(judge(&nodes(), &seen), Ruling::Stays(1, Reason::Majority));
    let seen = [row(1, None), none(), none()];
    assert_eq!(judge(&nodes(), &seen), Ruling::Goes(Reason::Majority));
    let seen = [row(1, None), none()];
    assert_eq!(
        judge(&nodes()[..2], &seen),
        Ruling::Stays(0, Reason::Majority)
    );
    let seen = [row(1, None), row(1, None), row(2, Some(stamp(1, 3)))];
    assert_eq!(
        judge(&nodes(), &seen),
        Ruling::Stays(2, Reason::LiveAtAuthor)
    );
}

#[test]
fn it_does_not_matter_in_which_order_the_nodes_are_named() {
    let seen = [
        row(2, Some(stamp(8, 3))),
        deleted(9, none()),
        row(1, Some(stamp(9, 1))),
    ];
    let content = |nodes: &[NodeId], seen: &[Seen]| match judge(nodes, seen) {
        Ruling::Stays(place, reason) => (seen[place].row.map(|row| row.hash), Some(reason)),
        Ruling::Goes(reason) => (None, Some(reason)),
        Ruling::Equal => (None, None),
    };
    let all = nodes();
    let expected = content(&all, &seen);
    for [a, b, c] in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let nodes = [all[a], all[b], all[c]];
        assert_eq!(content(&nodes, &[seen[a], seen[b], seen[c]]), expected);
    }
}

/// Three nodes with one table; a fence only counts.
struct Played {
    rows: Mutex<Vec<BTreeMap<Key, Seen>>>,
    fences: Mutex<usize>,
    /// What the second look finds changed on the first node.
    between: Option<(Key, Seen)>,
    /// No two of these rows can be on one node.
    rivals: Option<[Key; 2]>,
    /// Rows refer to this one.
    referred: Option<Key>,
}

impl Played {
    fn new(rows: Vec<BTreeMap<Key, Seen>>) -> Played {
        Played {
            rows: Mutex::new(rows),
            fences: Mutex::new(0),
            between: None,
            rivals: None,
            referred: None,
        }
    }

    fn place(of: NodeId) -> usize {
        usize::try_from(of.0.as_u128() - 1).unwrap()
    }

    /// The row that can't be on a node together with this one.
    fn rival(&self, key: &Key) -> Option<&Key> {
        let rivals = self.rivals.as_ref().filter(|pair| pair.contains(key))?;
        rivals.iter().find(|other| *other != key)
    }
}

impl Rows for Played {
    fn me(&self) -> NodeId {
        node(1)
    }

    fn nodes(&self) -> Vec<NodeId> {
        nodes()
    }

    async fn ordering(&self, _: &str, keys: &[Key]) -> Result<(), Failure> {
        for key in keys {
            let mut rows = self.rows.lock().unwrap();
            rows[0].entry(key.clone()).or_default().ordered = true;
        }
        Ok(())
    }

    async fn look(
        &self,
        of: NodeId,
        _: &str,
        keys: &[Key],
    ) -> Result<(Moment, Vec<Seen>), Failure> {
        let rows = self.rows.lock().unwrap();
        let held = &rows[Played::place(of)];
        let seen = keys
            .iter()
            .map(|key| held.get(key).copied().unwrap_or_default());
        Ok((Moment::default(), seen.collect()))
    }

    async fn fence(&self) -> Result<(), Failure> {
        let mut fences = self.fences.lock().unwrap();
        *fences += 1;
        if let (2, Some((key, seen))) = (*fences, &self.between) {
            self.rows.lock().unwrap()[0].insert(key.clone(), *seen);
        }
        Ok(())
    }

    async fn fetch(
        &self,
        of: NodeId,
        _: &str,
        versions: &[(Key, u32)],
    ) -> Result<Vec<Option<RowValues>>, Failure> {
        let rows = self.rows.lock().unwrap();
        let held = &rows[Played::place(of)];
        let one = |(key, token): &(Key, u32)| {
            let row = held.get(key)?.row.filter(|row| row.token == *token)?;
            Some(RowValues::from([(
                "v".to_owned(),
                Some(row.hash[0].to_string()),
            )]))
        };
        Ok(versions.iter().map(one).collect())
    }

    async fn kept(&self, _: &str, key: &Key) -> Result<Option<Kept>, Failure> {
        let referring = Referrers {
            table: "child".to_owned(),
            constraint: "fkey".to_owned(),
            rows: u64::from(self.referred.as_ref() == Some(key)),
            command: "DELETE".to_owned(),
        };
        Ok(kept(&key.join(", "), &[("b".to_owned(), vec![referring])]))
    }

    async fn mend(&self, of: NodeId, _: &str, repairs: &[Repair]) -> Result<Vec<Mended>, Failure> {
        let mut rows = self.rows.lock().unwrap();
        let held = &mut rows[Played::place(of)];
        let mut outcomes = Vec::new();
        for repair in repairs {
            let rival = self.rival(&repair.key).cloned();
            let rival = rival.filter(|key| held.get(key).is_some_and(|seen| seen.row.is_some()));
            if let (Some(rival), true) = (rival, repair.right.is_some()) {
                outcomes.push(Mended::Blocked(rival));
                continue;
            }
            let seen = held.entry(repair.key.clone()).or_default();
            if seen.row.map(|row| row.token) != repair.seen {
                outcomes.push(Mended::Raced);
                continue;
            }
            seen.row = repair.right.as_ref().map(|right| {
                let content = right.values["v"].as_ref().unwrap().parse().unwrap();
                Version {
                    stamp: right.stamp,
                    hash: [content, 0],
                    token: 8,
                    mended: true,
                }
            });
            outcomes.push(Mended::Done);
        }
        Ok(outcomes)
    }
}

fn key(text: &str) -> Key {
    vec![text.to_owned()]
}

fn played(host: &Played, mend: bool, keys: &[&str]) -> Round {
    let keys = keys.iter().map(|text| key(text)).collect();
    let suspects = BTreeMap::from([("t".to_owned(), keys)]);
    let rounds = futures_util::FutureExt::now_or_never(check(host, &suspects, mend));
    rounds.unwrap().unwrap().remove("t").unwrap()
}

#[test]
fn a_round_mends_what_differs_and_the_next_one_finds_it_equal() {
    let held = Some(stamp(5, 1));
    let host = Played::new(vec![
        BTreeMap::from([(key("a"), row(1, held)), (key("same"), row(4, None))]),
        BTreeMap::from([
            (key("same"), row(4, None)),
            (key("gone"), row(2, Some(stamp(3, 1)))),
        ]),
        BTreeMap::from([
            (key("same"), row(4, None)),
            (key("gone"), deleted(4, none())),
        ]),
    ]);
    let first = played(&host, true, &["a", "gone", "same"]);
    assert_eq!(first.equal, [key("same")].into());
    assert_eq!(first.mended, [key("a"), key("gone")]);
    assert_eq!(*host.fences.lock().unwrap(), 2, "one before each look");
    let second = played(&host, true, &["a", "gone", "same"]);
    assert_eq!(second.equal.len(), 3, "{second:?}");
    assert!(
        second.awaited.is_empty(),
        "its own orders are its own business"
    );
    assert_eq!(*host.fences.lock().unwrap(), 3, "nothing to look at again");
    let rows = host.rows.lock().unwrap();
    let copied = rows[2].get(&key("a")).unwrap().row.unwrap();
    assert_eq!(
        (copied.stamp, copied.hash),
        (held, [1, 0]),
        "with its own stamp"
    );
}

#[test]
fn what_changes_between_the_looks_is_left_open() {
    let mut host = Played::new(vec![
        BTreeMap::from([(key("a"), row(1, Some(stamp(5, 1))))]),
        BTreeMap::new(),
        BTreeMap::new(),
    ]);
    let mut changed = row(2, Some(stamp(6, 1)));
    changed.row.as_mut().unwrap().token = 9;
    host.between = Some((key("a"), changed));
    let round = played(&host, true, &["a"]);
    assert_eq!((round.open, round.mended), (vec![key("a")], Vec::new()));
}

#[test]
fn nothing_is_touched_unless_it_is_wished() {
    let host = Played::new(vec![
        BTreeMap::from([(key("a"), row(1, Some(stamp(5, 1))))]),
        BTreeMap::new(),
        BTreeMap::new(),
    ]);
    let round = played(&host, false, &["a"]);
    assert_eq!(round.open, [key("a")]);
    let ruling = Ruling::Stays(0, Reason::LiveAtAuthor);
    assert_eq!(round.rulings, [(key("a"), ruling)].into());
    assert!(host.rows.lock().unwrap()[1].is_empty());
}

/// The first node has a row that the others have another in the place of.
fn two_with_one_value() -> Played {
    let older = row(1, Some(stamp(5, 1)));
    let newer = row(2, Some(stamp(6, 2)));
    let mut host = Played::new(vec![
        BTreeMap::from([(key("a"), older)]),
        BTreeMap::from([(key("b"), newer)]),
        BTreeMap::from([(key("b"), newer)]),
    ]);
    host.rivals = Some([key("a"), key("b")]);
    host
}

fn has(host: &Played, place: usize, text: &str) -> bool {
    let rows = host.rows.lock().unwrap();
    rows[place]
        .get(&key(text))
        .is_some_and(|seen| seen.row.is_some())
}

#[test]
fn of_two_rows_with_one_unique_value_the_newer_is_everybodys() {
    let host = two_with_one_value();
    let round = played(&host, true, &["a", "b"]);
    assert!(round.problems.is_empty(), "{round:?}");
    let round = played(&host, true, &["a", "b"]);
    assert_eq!(round.equal.len() + round.mended.len(), 2, "{round:?}");
    for place in 0..3 {
        assert!(!has(&host, place, "a") && has(&host, place, "b"));
    }
}

#[test]
fn an_older_row_that_rows_refer_to_is_kept_and_told() {
    let mut host = two_with_one_value();
    host.referred = Some(key("a"));
    let round = played(&host, true, &["a", "b"]);
    let told = round.problems.values().next().unwrap();
    assert!(told.starts_with("rows refer to a, the older"), "{told}");
    assert!(
        round.mended.is_empty() && round.open.len() == 2,
        "{round:?}"
    );
    assert!(has(&host, 0, "a") && !has(&host, 1, "a") && has(&host, 2, "b"));
    // What refers to the newer one is in nobody's way.
    host.referred = Some(key("b"));
    played(&host, true, &["a", "b"]);
    assert!(!has(&host, 0, "a"));
}
