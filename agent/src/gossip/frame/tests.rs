//! Frames against everything a network and a stranger can do to them.

use super::*;
use crate::gossip::tuning::PACKET_BYTES_MAX;

fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn ring(keys: &[(u32, u8)]) -> Keyring {
    let keys = keys
        .iter()
        .map(|&(id, byte)| Key::new(id, &[byte; 32]).unwrap());
    Keyring::new(keys.collect()).unwrap()
}

fn sealer(n: u128, generation: u64, salt: u8) -> Sealer {
    Sealer::new(node(n), generation, [salt; SALT_BYTES])
}

fn opener() -> Opener {
    Opener::beside(&sealer(99, 1, 99))
}

#[test]
fn what_is_sealed_is_opened_and_can_not_be_read() {
    let keys = ring(&[(1, 7)]);
    let (mut sealer, mut opener) = (sealer(1, 1, 1), opener());
    for length in [0, 1, 100, PACKET_BYTES_MAX] {
        let packet = vec![b'x'; length];
        let frame = sealer.seal(&keys, &packet).unwrap();
        assert_eq!(frame.len(), length + OVERHEAD_BYTES);
        assert!(frame.len() <= DATAGRAM_BYTES_MAX);
        assert!(!frame.windows(8).any(|bytes| bytes == b"xxxxxxxx"));
        assert_eq!(
            opener.open(&keys, &frame),
            Ok(Opened {
                sender: node(1),
                packet
            })
        );
    }
}

#[test]
fn no_bit_can_be_flipped() {
    let keys = ring(&[(1, 7)]);
    let frame = sealer(1, 5, 1).seal(&keys, b"packet").unwrap();
    for bit in 0..frame.len() * 8 {
        let mut bent = frame.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        let mut opener = opener();
        opener.open(&keys, &bent).unwrap_err();
        assert!(
            opener.open(&keys, &frame).is_ok(),
            "bit {bit} left something behind"
        );
    }
}

#[test]
fn no_byte_can_be_cut_off_or_added() {
    let keys = ring(&[(1, 7)]);
    let frame = sealer(1, 5, 1).seal(&keys, b"packet").unwrap();
    for length in 0..frame.len() {
        opener().open(&keys, &frame[..length]).unwrap_err();
    }
    let mut longer = frame.clone();
    longer.push(0);
    assert_eq!(
        opener().open(&keys, &longer),
        Err(FrameError::Forged(node(1)))
    );
    longer.resize(DATAGRAM_BYTES_MAX + 1, 0);
    assert_eq!(
        opener().open(&keys, &longer),
        Err(FrameError::Long(DATAGRAM_BYTES_MAX + 1))
    );
}

#[test]
fn nothing_longer_than_a_datagram_is_sealed() {
    let result = sealer(1, 1, 1).seal(&ring(&[(1, 7)]), &vec![0; PACKET_BYTES_MAX + 1]);
    assert_eq!(result, Err(FrameError::Long(DATAGRAM_BYTES_MAX + 1)));
}

#[test]
fn a_frame_is_opened_once_in_whatever_order() {
    let keys = ring(&[(1, 7)]);
    let (mut sealer, mut opener) = (sealer(1, 1, 1), opener());
    let frames: Vec<_> = (0..1100)
        .map(|_| sealer.seal(&keys, b"p").unwrap())
        .collect();
    for frame in frames[76..].iter().rev() {
        opener.open(&keys, frame).unwrap();
        assert_eq!(
            opener.open(&keys, frame),
            Err(FrameError::Repeated(node(1)))
        );
    }
    assert_eq!(
        opener.open(&keys, &frames[75]),
        Err(FrameError::Late(node(1)))
    );
}

#[test]
fn every_key_of_the_ring_opens_and_no_other() {
    let (old, new) = (ring(&[(1, 7)]), ring(&[(2, 8)]));
    let both = ring(&[(2, 8), (1, 7)]);
    let (mut sealer, mut opener) = (sealer(1, 1, 1), opener());
    let by_old = sealer.seal(&old, b"old").unwrap();
    let by_both = sealer.seal(&both, b"both").unwrap();
    assert_eq!(opener.open(&new, &by_old), Err(FrameError::UnknownKey(1)));
    assert_eq!(opener.open(&old, &by_both), Err(FrameError::UnknownKey(2)));
    opener.open(&both, &by_old).unwrap();
    opener.open(&new, &by_both).unwrap();
    let stranger = sealer.seal(&ring(&[(1, 9)]), b"other cluster").unwrap();
    assert_eq!(
        opener.open(&both, &stranger),
        Err(FrameError::Forged(node(1)))
    );
}

#[test]
fn an_older_boot_is_refused_once_a_newer_was_heard() {
    let keys = ring(&[(1, 7)]);
    let (mut before, mut after, mut opener) = (sealer(1, 4, 1), sealer(1, 5, 2), opener());
    let unsent = before.seal(&keys, b"a").unwrap();
    opener
        .open(&keys, &before.seal(&keys, b"b").unwrap())
        .unwrap();
    opener
        .open(&keys, &after.seal(&keys, b"c").unwrap())
        .unwrap();
    let refused = FrameError::OldBoot {
        sender: node(1),
        generation: 4,
        newest: 5,
    };
    assert_eq!(opener.open(&keys, &unsent), Err(refused));
    opener
        .open(&keys, &after.seal(&keys, b"d").unwrap())
        .unwrap();
}

#[test]
fn an_expected_generation_is_a_lower_bound_from_the_start() {
    let keys = ring(&[(1, 7)]);
    let mut opener = opener();
    opener.expect_generations(BTreeMap::from([(node(1), 5)]));
    let old = sealer(1, 4, 1).seal(&keys, b"a").unwrap();
    let refused = FrameError::OldBoot {
        sender: node(1),
        generation: 4,
        newest: 5,
    };
    assert_eq!(opener.open(&keys, &old), Err(refused));
    opener
        .open(&keys, &sealer(1, 5, 1).seal(&keys, b"a").unwrap())
        .unwrap();
}

#[test]
fn a_copied_machine_is_named_but_not_on_a_forgers_word() {
    let keys = ring(&[(1, 7)]);
    let mut opener = opener();
    opener
        .open(&keys, &sealer(1, 4, 1).seal(&keys, b"a").unwrap())
        .unwrap();
    let twin = sealer(1, 4, 2).seal(&keys, b"a").unwrap();
    let named = FrameError::Twin {
        sender: node(1),
        generation: 4,
    };
    assert_eq!(opener.open(&keys, &twin), Err(named));
    let forged = sealer(1, 4, 2).seal(&ring(&[(1, 8)]), b"a").unwrap();
    assert_eq!(
        opener.open(&keys, &forged),
        Err(FrameError::Forged(node(1)))
    );
    let ours = sealer(99, 1, 98).seal(&keys, b"a").unwrap();
    let named = FrameError::Twin {
        sender: node(99),
        generation: 1,
    };
    assert_eq!(opener.open(&keys, &ours), Err(named));
    let echo = sealer(99, 1, 99).seal(&keys, b"a").unwrap();
    assert_eq!(opener.open(&keys, &echo), Err(FrameError::Echo));
}

#[test]
fn a_forged_newer_generation_does_not_shut_the_real_one_out() {
    let keys = ring(&[(1, 7)]);
    let (mut real, mut opener) = (sealer(1, 4, 1), opener());
    opener
        .open(&keys, &real.seal(&keys, b"a").unwrap())
        .unwrap();
    let forged = sealer(1, 9, 1).seal(&ring(&[(1, 8)]), b"a").unwrap();
    assert_eq!(
        opener.open(&keys, &forged),
        Err(FrameError::Forged(node(1)))
    );
    opener
        .open(&keys, &real.seal(&keys, b"b").unwrap())
        .unwrap();
}

#[test]
fn the_memory_for_senders_is_bounded() {
    let keys = ring(&[(1, 7)]);
    let mut opener = opener();
    for n in 1000..1000 + SENDERS_MAX as u128 + 10 {
        opener
            .open(&keys, &sealer(n, 1, 1).seal(&keys, b"a").unwrap())
            .unwrap();
    }
    assert_eq!(opener.streams.len(), SENDERS_MAX);
}

#[test]
fn counters_never_wrap() {
    let mut sealer = sealer(1, 1, 1);
    sealer.counter = u64::MAX - 1;
    let keys = ring(&[(1, 7)]);
    sealer.seal(&keys, b"a").unwrap();
    assert_eq!(sealer.seal(&keys, b"a"), Err(FrameError::Exhausted));
    assert_eq!(sealer.seal(&keys, b"a"), Err(FrameError::Exhausted));
}
