//! Lines as pglogical 2.4.2 writes them, and lines that only look so.

use super::judge::{Lags, Verdict, Version, judge as judge_on};
use super::line::{Read, may_matter, read};
use super::scan::Scan;
use super::tuple::{self, Column, KeyPart, Shape, Unclear, Value};
use super::*;
use crate::ids::NodeId;
use crate::time::Wall;
use uuid::Uuid;

const DATABASE: u32 = 16_385;

const CONTEXT: &str = "apply INSERT from remote relation public.orders in commit before \
     0/1A2B3C8, xid 744 committed at 2026-11-21 20:05:51.25+00 (action #2) from node replorigin 3";

fn line_of(message: &str, detail: &str, context: &str) -> String {
    let fields = serde_json::json!({
        "timestamp": "2026-11-21 21:05:51.260 CET",
        "pid": 4711,
        "session_id": "6921c0de.1267",
        "line_num": 7,
        "txid": 912,
        "error_severity": "LOG",
        "state_code": "23000",
        "message": message,
        "detail": detail,
        "context": context,
        "application_name": "pglogical apply 16385:3847234",
        "backend_type": "pglogical apply 16385:3847234",
        "query_id": 0,
    });
    fields.to_string()
}

fn conflict(line: &str) -> Conflict<'_> {
    let found = read(line.as_bytes(), DATABASE);
    let Read::Conflict(conflict) = found else {
        panic!("{found:?}");
    };
    *conflict
}

const UPDATE: &str = "CONFLICT: remote UPDATE on relation public.orders (local index \
     orders_pkey). Resolution: apply_remote.";
const BOTH: &str = "existing local tuple {id[int4]:5 note[text]:old} xid=901,origin=0,\
     timestamp=2026-11-21 21:05:51.2+01; remote tuple {id[int4]:5 note[text]:new} in xact \
     origin=3,timestamp=2026-11-21 20:05:51.25+00,commit_lsn=0/1A2B3C8";

#[test]
fn an_update_is_read_whole() {
    let line = line_of(UPDATE, BOTH, CONTEXT);
    let found = conflict(&line);
    let at = Stamp(1_795_291_551_250_000);
    let expected = Conflict {
        logged: 1_795_295_151_260_000,
        apply_xid: 912,
        kind: Kind::UpdateUpdate,
        relation: Relation {
            schema: "public".to_owned(),
            table: "orders".to_owned(),
            quoted: "public.orders".to_owned(),
        },
        index: "orders_pkey".to_owned(),
        resolution: Resolution::ApplyRemote,
        local: Some(LocalRow {
            tuple: Cow::Borrowed(b"id[int4]:5 note[text]:old"),
            xid: 901,
            origin: Some(0),
            at: Some(Stamp(at.0 - 50_000)),
        }),
        remote: Cow::Borrowed(b"id[int4]:5 note[text]:new"),
        commit: Commit {
            lsn: Lsn(0x1A2_B3C8),
            xid: 744,
            at,
            action: 2,
            origin: 3,
        },
    };
    assert_eq!(found, expected);
    assert!(found.is_plain_update());
    // The same instant is decided by nobody.
    let equal = BOTH.replace("21:05:51.2+01", "21:05:51.25+01");
    assert!(!conflict(&line_of(UPDATE, &equal, CONTEXT)).is_plain_update());
}

#[test]
fn rows_that_are_missing_and_names_that_are_quoted() {
    let message = "CONFLICT: remote DELETE on relation \"My \"\"Shop\"\"\".\"a.b\" replica identity \
                   index x). Resolution: skip (tuple not found). Resolution: skip.";
    let detail = "remote tuple {id[int4]:5 note[text]:(null)}* in xact origin=3,timestamp=2026-11-21 \
                  20:05:51.25+00,commit_lsn=0/1A2B3C8";
    let line = line_of(message, detail, CONTEXT);
    let found = conflict(&line);
    assert_eq!(found.kind, Kind::DeleteMissing);
    assert_eq!(found.relation.schema, "My \"Shop\"");
    assert_eq!(found.relation.table, "a.b");
    assert_eq!(found.relation.quoted, "\"My \"\"Shop\"\"\".\"a.b\"");
    assert_eq!(found.index, "x). Resolution: skip");
    assert_eq!(found.local, None);
    assert_eq!(found.remote.as_ref(), b"id[int4]:5 note[text]:(null)");
    let forwarded = format!("{CONTEXT} forwarded from commit 0/55 on node 9");
    assert_eq!(
        conflict(&line_of(message, detail, &forwarded))
            .commit
            .origin,
        9
    );
}

#[test]
fn values_can_not_pose_as_what_stands_between_the_rows() {
    let evil = "} xid=1,origin=1,timestamp=; remote";
    let detail = BOTH
        .replace("old", evil)
        .replace("new", "x} in xact origin=9");
    let line = line_of(UPDATE, &detail, CONTEXT);
    let found = conflict(&line);
    let local = found.local.unwrap();
    assert_eq!(
        local.tuple,
        format!("id[int4]:5 note[text]:{evil}").as_bytes()
    );
    assert_eq!((local.xid, local.origin), (901, Some(0)));
    assert!(found.remote.ends_with(b"x} in xact origin=9"));
    // A commit that PostgreSQL has forgotten.
    let frozen = BOTH.replace(
        "origin=0,timestamp=2026-11-21 21:05:51.2+01",
        "origin=-1,timestamp=",
    );
    let line = line_of(UPDATE, &frozen, CONTEXT);
    let local = conflict(&line).local.unwrap();
    assert_eq!((local.origin, local.at), (None, None));
}

#[test]
fn a_line_cut_inside_a_character_is_read() {
    let line = line_of(UPDATE, BOTH, CONTEXT);
    let at = line.find(":old").unwrap() + 1;
    let mut bytes = line.into_bytes();
    bytes.splice(
        at..at + 3,
        [b"a".repeat(34), vec![0xC3], b"...".to_vec()].concat(),
    );
    let Read::Conflict(found) = read(&bytes, DATABASE) else {
        panic!("not read");
    };
    let columns = columns(&[("id", "int4"), ("note", "text")]);
    let values = tuple::read(&found.local.unwrap().tuple, &columns).unwrap();
    assert_eq!(values[1], Value::Cut("a".repeat(34)));
}

#[test]
fn what_is_not_pglogical_s_is_nobody_s_business() {
    let line = line_of(UPDATE, BOTH, CONTEXT);
    assert_eq!(read(line.as_bytes(), DATABASE + 1), Read::Other);
    // An application can log whatever it likes, and is still a client.
    let posing = serde_json::json!({
        "message": line,
        "application_name": "\"backend_type\":\"pglogical apply 16385:3847234\"",
        "backend_type": "client backend",
    });
    assert!(!may_matter(posing.to_string().as_bytes()));
    for cut in 0..line.len() {
        assert!(
            !matches!(read(&line.as_bytes()[..cut], DATABASE), Read::Conflict(_)),
            "{cut} bytes were enough"
        );
    }
    let strange = line_of("CONFLICT: remote MERGE on relation a.b", BOTH, CONTEXT);
    assert!(matches!(
        read(strange.as_bytes(), DATABASE),
        Read::Unreadable(_)
    ));
    let twice = BOTH.replace("{id", "{id} xid=1,origin=1,timestamp=; remote tuple {id");
    let twice = line_of(UPDATE, &twice, CONTEXT);
    let Read::Unreadable(unreadable) = read(twice.as_bytes(), DATABASE) else {
        panic!("two readings, and one was taken");
    };
    assert_eq!(unreadable.relation.unwrap().table, "orders");
}

#[test]
fn a_worker_that_gives_up_is_read() {
    let line = line_of(
        "duplicate key value violates unique constraint \"orders_mail_key\"",
        "Key (mail)=(a@b) already exists.",
        &format!("SQL function \"f\" statement 1\n{CONTEXT}"),
    );
    let line = line
        .replace("\"LOG\"", "\"ERROR\"")
        .replace("23000", "23505");
    let Read::Failure(failure) = read(line.as_bytes(), DATABASE) else {
        panic!("not read");
    };
    assert_eq!(failure.subscription, 3_847_234);
    assert_eq!(failure.sqlstate, "23505");
    assert_eq!(failure.action.as_deref(), Some("INSERT"));
    assert_eq!(failure.relation.as_deref(), Some("public.orders"));
    assert_eq!(failure.commit.unwrap().lsn, Lsn(0x1A2_B3C8));
    assert_eq!(failure.commit.unwrap().xid, 744);
}

#[test]
fn times_are_read_with_any_offset() {
    let stamp = |text: &str| Scan(text.as_bytes()).stamp();
    let utc = Some(Stamp(1_795_291_551_000_000));
    assert_eq!(stamp("2026-11-21 20:05:51+00"), utc);
    assert_eq!(stamp("2026-11-22 01:35:51+05:30"), utc);
    assert_eq!(stamp("2026-11-21 16:35:51-03:30:00"), utc);
    assert_eq!(stamp("1970-01-01 00:00:00.000001+00"), Some(Stamp(1)));
    assert_eq!(
        stamp("2000-02-29 00:00:00+00"),
        Some(Stamp(951_782_400_000_000))
    );
    for bad in [
        "",
        "infinity",
        "2026-13-01 00:00:00+00",
        "2026-11-21 20:05:51",
        "2026-11-21 20:05:51.1234567+00",
        "99999999999-01-01 00:00:00+00",
        "2026-11-21 20:05:51+99999999999",
    ] {
        assert_eq!(stamp(bad), None, "{bad}");
    }
}

fn columns(names: &[(&str, &str)]) -> Vec<Column> {
    let column = |(name, type_name): &(&str, &str)| Column {
        name: (*name).to_owned(),
        type_name: (*type_name).to_owned(),
    };
    names.iter().map(column).collect()
}

#[test]
fn tuples_are_anchored_on_the_columns() {
    let table = columns(&[("id", "int4"), ("note", "text"), ("b c", "text")]);
    let read = |text: &str| tuple::read(text.as_bytes(), &table);
    let whole = |text: &str| Value::Whole(text.to_owned());
    assert_eq!(
        read("id[int4]:5 note[text]:a b[x]: c b c[text]:"),
        Ok(vec![whole("5"), whole("a b[x]: c"), whole("")])
    );
    assert_eq!(
        read("id[int4]:5 note[text]:(null) b c[text]:(unchanged-toast-datum)"),
        Ok(vec![whole("5"), Value::Null, Value::Hidden])
    );
    // A value that looks like the next column: two readings are none.
    let twice = "id[int4]:5 note[text]:x b c[text]:y b c[text]:z";
    assert_eq!(read(twice), Err(Unclear::Several));
    // Of these two one would leave a value that is too long.
    let (first, last) = ("x".repeat(29), "z".repeat(28));
    let one = format!("id[int4]:5 note[text]:{first} b c[text]:y b c[text]:{last}");
    let value = whole(&format!("y b c[text]:{last}"));
    assert_eq!(read(&one), Ok(vec![whole("5"), whole(&first), value]));
    for bad in ["", "id[int4]:5", "id[int8]:5 note[text]:a b c[text]:b", "x"] {
        assert_eq!(read(bad), Err(Unclear::None), "{bad}");
    }
    let longer = format!("id[int4]:5 note[text]:{} b c[text]:", "x".repeat(41));
    assert_eq!(read(&longer), Err(Unclear::None));
}

#[test]
fn keys_come_in_the_key_s_order_and_cut_ones_are_marked() {
    let shape = Shape {
        columns: columns(&[("a", "text"), ("b", "int4")]),
        key: vec![1, 0],
    };
    let long = format!("a[text]:{}... b[int4]:7", "x".repeat(35));
    let values = tuple::read(long.as_bytes(), &shape.columns).unwrap();
    let part = |column: &str, text: String, cut| KeyPart {
        column: column.to_owned(),
        text,
        cut,
    };
    let expected = vec![
        part("b", "7".to_owned(), false),
        part("a", "x".repeat(35), true),
    ];
    assert_eq!(tuple::key(&shape, &values), Some(expected));
    let hidden = tuple::read(b"a[text]:(unchanged-toast-datum) b[int4]:7", &shape.columns);
    assert_eq!(tuple::key(&shape, &hidden.unwrap()), None);
}

fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

/// Seconds of some day in 2026.
fn at(node_number: u128, seconds: f64) -> Version {
    Version {
        node: Some(node(node_number)),
        at: Some(Stamp(1_795_291_200_000_000 + (seconds * 1e6) as i64)),
    }
}

fn wall(seconds: i64) -> Wall {
    Wall(1_795_291_200_000 + seconds * 1000)
}

/// By a node that wrote neither: lags alone tell.
fn judge(local: Version, remote: Version, lags: &Lags) -> Verdict {
    judge_on(node(9), local, remote, lags)
}

#[test]
fn what_comes_only_now_was_not_known_here() {
    let mut lags = Lags::default();
    let (local, remote) = (at(2, 5.1), at(1, 5.0));
    assert_eq!(judge_on(node(2), local, remote, &lags), Verdict::Concurrent);
    for second in 0..100 {
        lags.note(node(2), node(1), wall(second), Some(30));
        lags.note(node(1), node(2), wall(second), Some(30));
    }
    // By the lags the second had it. A third node can know no better.
    assert_eq!(judge_on(node(3), local, remote, &lags), Verdict::Ordered);
    assert_eq!(judge_on(node(2), local, remote, &lags), Verdict::Concurrent);
    // The one that came knew what is here.
    let (local, remote) = (at(2, 5.0), at(1, 5.1));
    assert_eq!(judge_on(node(2), local, remote, &lags), Verdict::Ordered);
}

#[test]
fn a_writer_that_had_the_row_conflicts_with_nobody() {
    let mut lags = Lags::default();
    assert_eq!(judge(at(1, 5.0), at(2, 9.0), &lags), Verdict::Unknown);
    for second in 0..100 {
        lags.note(node(2), node(1), wall(second), Some(30));
        lags.note(node(1), node(2), wall(second), Some(10));
    }
    assert_eq!(judge(at(1, 5.0), at(2, 5.1), &lags), Verdict::Ordered);
    assert_eq!(judge(at(1, 5.0), at(2, 5.02), &lags), Verdict::Concurrent);
    // The other direction has a lag of its own.
    assert_eq!(judge(at(1, 5.02), at(2, 5.0), &lags), Verdict::Ordered);
    assert_eq!(judge(at(1, 5.0), at(2, 5.0), &lags), Verdict::Concurrent);
    // A row of last month.
    assert_eq!(judge(at(1, -2e6), at(2, 5.0), &lags), Verdict::Ordered);
    let copied = Version {
        node: None,
        at: Some(Stamp(946_771_200_000_000)),
    };
    assert_eq!(judge(copied, at(2, 5.0), &lags), Verdict::Ordered);
}

#[test]
fn a_lag_that_has_passed_counts_no_more() {
    let mut lags = Lags::default();
    for second in 0..10 {
        let lag = if second < 3 { 2_000 } else { 20 };
        lags.note(node(2), node(1), wall(second), Some(lag));
    }
    // A hold-up that is told by the heartbeat it ends with.
    lags.note(node(2), node(1), wall(10), Some(1_500));
    assert_eq!(judge(at(1, 8.2), at(2, 8.5), &lags), Verdict::Concurrent);
    assert_eq!(judge(at(1, 5.0), at(2, 8.5), &lags), Verdict::Ordered);
    // While it was long, and afterwards.
    assert_eq!(judge(at(1, 1.0), at(2, 2.0), &lags), Verdict::Concurrent);
    assert_eq!(judge(at(1, 5.0), at(2, 6.0), &lags), Verdict::Ordered);
    // Nobody looked any more: only what had arrived by then is certain.
    assert_eq!(judge(at(1, 5.0), at(2, 60.0), &lags), Verdict::Ordered);
    assert_eq!(judge(at(1, 50.0), at(2, 60.0), &lags), Verdict::Unknown);
}

#[test]
fn writes_during_an_outage_conflict() {
    let mut lags = Lags::default();
    for second in 0..200 {
        let lag = (!(60..120).contains(&second)).then_some(20);
        lags.note(node(2), node(1), wall(second), lag);
    }
    let remote = at(2, 110.0);
    assert_eq!(judge(at(1, 70.0), remote, &lags), Verdict::Concurrent);
    // Written before it, and so known to the other.
    assert_eq!(judge(at(1, 50.0), remote, &lags), Verdict::Ordered);
    assert_eq!(judge(at(1, 70.0), at(2, 130.0), &lags), Verdict::Ordered);
}

#[test]
fn clocks_that_differ_cancel_out() {
    let mut lags = Lags::default();
    // The second's clock is 5 s ahead; a change takes 20 ms both ways.
    for second in 0..100 {
        lags.note(node(2), node(1), wall(second), Some(5_020));
        lags.note(node(1), node(2), wall(second), Some(-4_980));
    }
    assert_eq!(judge(at(1, 50.0), at(2, 55.5), &lags), Verdict::Ordered);
    assert_eq!(judge(at(1, 50.0), at(2, 55.01), &lags), Verdict::Concurrent);
    // The first saw it although its own time is earlier.
    assert_eq!(judge(at(1, 50.0), at(2, 54.5), &lags), Verdict::Ordered);
}
