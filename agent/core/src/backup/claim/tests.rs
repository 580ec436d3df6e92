//! One decision at a time.

use super::*;
use uuid::Uuid;

const HAND_OVER: Duration = Duration::from_secs(600);

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fn cluster() -> ClusterId {
    ClusterId(Uuid::from_u128(99))
}

fn member(number: u128, epoch: Option<u64>) -> Member {
    Member {
        node: node(number),
        reachable: true,
        able: true,
        place: Some(0),
        claim: epoch.map(claim),
        wish: None,
    }
}

fn claim(epoch: u64) -> Claim {
    Claim {
        epoch,
        since: Wall(1),
        covered: false,
    }
}

/// Who comes first, second and third by rendezvous among 1, 2 and 3.
fn order() -> [u128; 3] {
    let mut order = [1, 2, 3];
    order.sort_by_key(|number| Reverse(weight(cluster(), node(*number))));
    order
}

struct Seat {
    me: u128,
    standing: Standing,
    vacancy: Vacancy,
}

impl Seat {
    fn of(me: u128) -> Seat {
        Seat {
            me,
            standing: Standing::default(),
            vacancy: Vacancy::default(),
        }
    }

    fn owning(me: u128, epoch: u64) -> Seat {
        let mut seat = Seat::of(me);
        seat.standing.claim = Some(claim(epoch));
        seat.standing.highest = epoch;
        seat
    }

    fn at(&mut self, seconds: u64, members: &[Member]) -> Verdict {
        let inputs = Inputs {
            now: Mono(seconds * 1_000),
            me: node(self.me),
            cluster: cluster(),
            hand_over: HAND_OVER,
            members,
        };
        decide(&inputs, &self.standing, &mut self.vacancy)
    }
}

fn take(epoch: u64) -> Verdict {
    Verdict::Take {
        epoch,
        wished: false,
    }
}

#[test]
fn the_first_of_the_order_takes_over_where_there_never_was_an_owner() {
    let [first, second, _] = order();
    let members = [member(1, None), member(2, None), member(3, None)];
    let mut seat = Seat::of(first);
    assert_eq!(seat.at(0, &members), Verdict::Stay);
    assert_eq!(seat.at(10, &members), take(1));
    let mut seat = Seat::of(second);
    assert_eq!(seat.at(0, &members), Verdict::Stay);
    assert_eq!(seat.at(29, &members), Verdict::Stay);
    assert_eq!(seat.at(30, &members), take(1), "the first does nothing");
}

#[test]
fn an_owner_that_is_gone_for_a_moment_stays_the_owner() {
    let [owner, second, third] = order();
    let mut gone = member(owner, Some(4));
    gone.reachable = false;
    let seen = [
        member(owner, Some(4)),
        member(second, None),
        member(third, None),
    ];
    let missed = [gone, member(second, None), member(third, None)];
    let mut seat = Seat::of(second);
    for round in 0..10 {
        assert_eq!(seat.at(round * 1_000, &missed), Verdict::Stay);
        assert_eq!(seat.at(round * 1_000 + 599, &missed), Verdict::Stay);
        assert_eq!(seat.at(round * 1_000 + 600, &seen), Verdict::Stay);
    }
    assert_eq!(seat.at(20_000, &missed), Verdict::Stay);
    assert_eq!(seat.at(20_600, &missed), take(5));
}

#[test]
fn who_can_not_own_them_takes_nothing_and_is_not_waited_for() {
    let [first, second, third] = order();
    let mut members = [
        member(first, None),
        member(second, None),
        member(third, None),
    ];
    members[0].able = false;
    members[1].place = None;
    let mut seats = [Seat::of(first), Seat::of(second), Seat::of(third)];
    let verdicts = |seats: &mut [Seat; 3], at| seats.each_mut().map(|seat| seat.at(at, &members));
    assert_eq!(verdicts(&mut seats, 0), [Verdict::Stay; 3]);
    assert_eq!(
        verdicts(&mut seats, 10),
        [Verdict::Stay, Verdict::Stay, take(1)]
    );
}

#[test]
fn preferences_come_before_the_order() {
    let [first, _, third] = order();
    let mut members = [member(1, None), member(2, None), member(3, None)];
    for member in &mut members {
        member.place = Some(usize::from(member.node != node(third)));
    }
    let (mut early, mut preferred) = (Seat::of(first), Seat::of(third));
    let _ = (early.at(0, &members), preferred.at(0, &members));
    assert_eq!(preferred.at(10, &members), take(1));
    assert_eq!(early.at(10, &members), Verdict::Stay);
    // One that comes later changes nothing.
    members[0].claim = Some(claim(1));
    let owner = members[0].node;
    let mut late = Seat::of(third);
    if owner != node(third) {
        assert_eq!(late.at(9_999, &members), Verdict::Stay);
    }
}

#[test]
fn of_two_owners_the_higher_claim_stays() {
    let [first, second, third] = order();
    let members = [
        member(first, Some(5)),
        member(second, Some(4)),
        member(third, None),
    ];
    assert_eq!(Seat::owning(first, 5).at(0, &members), Verdict::Stay);
    let yields = |epoch| Verdict::Yield {
        to: node(first),
        epoch,
    };
    assert_eq!(Seat::owning(second, 4).at(0, &members), yields(5));
    let equal = [
        member(first, Some(5)),
        member(second, Some(5)),
        member(third, None),
    ];
    assert_eq!(Seat::owning(first, 5).at(0, &equal), Verdict::Stay);
    assert_eq!(Seat::owning(second, 5).at(0, &equal), yields(5));
}

#[test]
fn who_hands_over_archives_until_the_other_has_a_full_backup() {
    let [first, second, third] = order();
    let mut members = [
        member(first, Some(5)),
        member(second, None),
        member(third, None),
    ];
    let mut seat = Seat::owning(second, 4);
    let verdict = seat.at(0, &members);
    seat.standing = settle(&seat.standing, verdict, 5, Wall(2));
    assert!(seat.standing.claim.is_none() && seat.standing.archives());
    assert_eq!(seat.at(1, &members), Verdict::Stay);
    members[0].claim = Some(Claim {
        covered: true,
        ..claim(5)
    });
    assert_eq!(seat.at(2, &members), Verdict::Relieved);
    seat.standing = settle(&seat.standing, Verdict::Relieved, 5, Wall(3));
    assert!(!seat.standing.archives());
    assert_eq!(seat.standing.highest, 5);
}

#[test]
fn a_wish_is_followed_once_by_whom_it_names() {
    let [first, second, third] = order();
    let mut members = [
        member(first, Some(5)),
        member(second, None),
        member(third, None),
    ];
    members[2].wish = Some(Wish {
        target: node(second),
        epoch: 6,
    });
    assert_eq!(Seat::owning(first, 5).at(0, &members), Verdict::Stay);
    assert_eq!(Seat::of(third).at(0, &members), Verdict::Stay);
    let mut seat = Seat::of(second);
    let wished = Verdict::Take {
        epoch: 6,
        wished: true,
    };
    assert_eq!(seat.at(0, &members), wished);
    // Taken over by somebody else since: the wish is void, though a record still carries it.
    members[1].claim = None;
    members[0].claim = Some(claim(7));
    assert_eq!(Seat::of(second).at(0, &members), Verdict::Stay);
}

#[test]
fn an_owner_that_is_excluded_resigns_and_the_next_does_not_wait_for_it() {
    let [first, second, third] = order();
    let mut members = [
        member(first, Some(5)),
        member(second, None),
        member(third, None),
    ];
    members[0].place = None;
    let mut seat = Seat::owning(first, 5);
    assert_eq!(seat.at(0, &members), Verdict::Resign);
    seat.standing = settle(&seat.standing, Verdict::Resign, 5, Wall(2));
    members[0].claim = None;
    assert!(seat.standing.archives());
    let mut next = Seat::of(second);
    next.standing.highest = 5;
    assert_eq!(next.at(0, &members), Verdict::Stay);
    assert_eq!(next.at(10, &members), take(6));
    // Unless somebody who isn't seen may own them.
    members[2].reachable = false;
    let mut next = Seat::of(second);
    next.standing.highest = 5;
    let _ = next.at(0, &members);
    assert_eq!(next.at(599, &members), Verdict::Stay);
    assert_eq!(next.at(600, &members), take(6));
}

#[test]
fn the_order_is_spread_over_the_nodes() {
    let mut firsts = [0; 5];
    for number in 0..500 {
        let cluster = ClusterId(Uuid::from_u128(number));
        let first = (0..5).max_by_key(|n| weight(cluster, node(*n as u128 + 1)));
        firsts[first.unwrap_or_default()] += 1;
    }
    assert!(
        firsts.iter().all(|count| (60..140).contains(count)),
        "{firsts:?}"
    );
}

#[test]
fn places_follow_the_lists() {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let policy = BackupPolicy {
        prefer_nodes: list(&["c"]),
        prefer_sites: list(&["west", "north"]),
        exclude_nodes: list(&["a"]),
        exclude_sites: list(&["branch"]),
        ..BackupPolicy::default()
    };
    let at = |name, site| place(&policy, name, site);
    assert_eq!(at("a", "west"), None);
    assert_eq!(at("b", "branch"), None);
    assert_eq!(
        [at("c", ""), at("b", "west"), at("b", "north")],
        [0, 1, 2].map(Some)
    );
    assert_eq!(at("b", ""), Some(3));
    // A site without a name is in no list.
    assert_eq!(place(&BackupPolicy::default(), "b", ""), Some(0));
}
