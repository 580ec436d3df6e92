//! Datagrams from anybody, and damaged ones from friends: nothing is opened but what a holder of
//! the key sealed, as it was sealed, once.
//!
//! Input: two bytes where to damage, one byte how, then the packet, which is also tried as a
//! frame of its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgaa_agent::gossip::frame::{FrameError, Opener, SALT_BYTES, Sealer};
use pgaa_agent::trust::keyring::{KEY_BYTES, Key, Keyring};
use pgaa_core::ids::NodeId;
use uuid::Uuid;

fn node(number: u128) -> NodeId {
    NodeId(Uuid::from_u128(number))
}

fuzz_target!(|input: &[u8]| {
    let key = Key::new(1, &[7; KEY_BYTES]).expect("a key of the right length");
    let keyring = Keyring::new(vec![key]).expect("a ring of one key");
    let mut opener = Opener::beside(&Sealer::new(node(1), 1, [1; SALT_BYTES]));

    // Key 1 is known to the fuzzer's code, not to its input: opening this would be a forgery.
    assert!(opener.open(&keyring, input).is_err(), "a frame was forged");

    let Some(([high, low, damage], packet)) = input.split_first_chunk::<3>() else {
        return;
    };
    let mut sealer = Sealer::new(node(2), 1, [2; SALT_BYTES]);
    let frame = match sealer.seal(&keyring, packet) {
        Ok(frame) => frame,
        Err(FrameError::Long(_)) => return,
        Err(error) => panic!("a packet can't be sealed: {error}"),
    };

    let mut damaged = frame.clone();
    let at = usize::from(u16::from_be_bytes([*high, *low])) % damaged.len();
    damaged[at] ^= *damage;
    if *damage != 0 {
        assert!(
            opener.open(&keyring, &damaged).is_err(),
            "damage at {at} went unnoticed"
        );
    }
    assert!(
        opener.open(&keyring, &frame[..at]).is_err(),
        "a frame cut at {at} was opened"
    );

    let opened = opener
        .open(&keyring, &frame)
        .expect("damaged copies don't spoil the original");
    assert_eq!((opened.sender, opened.packet.as_slice()), (node(2), packet));
    assert_eq!(
        opener.open(&keyring, &frame),
        Err(FrameError::Repeated(node(2)))
    );
});
