//! Sealed datagrams: nobody without a key reads, forges or repeats gossip.
//!
//! A frame is a header in the clear, which is authenticated, and the sealed packet:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version of this layout |
//! | 4 | id of the key |
//! | 16 | sender's UUID |
//! | 8 | sender's generation |
//! | 16 | salt, drawn at random at each start of the sender |
//! | 8 | counter |
//! | ... | the packet, AES-256-GCM |
//! | 16 | its tag |
//!
//! Each start of a sender has a subkey of its own, HKDF-SHA256 over key, salt, sender and
//! generation, so a counter can be the nonce and need not be persisted. Numbers are big-endian.
//!
//! The receiver is not named: foca's packets name it, with its generation, and foca takes
//! none that is meant for another. What a frame says is not judged here.

use super::tuning::DATAGRAM_BYTES_MAX;
use super::window::{Freshness, Window};
use crate::trust::keyring::{Key, Keyring};
use pgaa_core::ids::NodeId;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use std::collections::BTreeMap;
use thiserror::Error;
use uuid::Uuid;

/// The version of the layout.
const VERSION: u8 = 1;

/// Length of a sender's salt, in bytes.
pub const SALT_BYTES: usize = 16;

const HEADER_BYTES: usize = 1 + 4 + 16 + 8 + SALT_BYTES + 8;
const TAG_BYTES: usize = 16;

/// What a frame adds to a packet, in bytes.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

/// Keeps these subkeys apart from all that may one day be derived from the same key.
const LABEL: &[u8] = b"pgaa gossip frame 1";

/// How many senders are remembered. Only holders of a key get here; a mesh has far fewer.
const SENDERS_MAX: usize = 1024;

/// Why a frame is not opened, or not made.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// Too short to be a frame.
    #[error("{0} bytes are too short for a gossip frame; something else sends to this port")]
    Short(usize),
    /// Longer than any frame.
    #[error("{0} bytes are too long for a gossip frame; something else sends to this port")]
    Long(usize),
    /// Another layout.
    #[error("gossip frames of version {0} are unknown here; do all nodes run the same agent?")]
    Version(u8),
    /// The key it names is not on the ring.
    #[error(
        "key {0} is not on this node's gossip keyring; the sender is of another cluster, or \
             was forgotten, or missed a rotation"
    )]
    UnknownKey(u32),
    /// The ring has no key to seal with.
    #[error("the gossip keyring holds no key to seal with")]
    NoKey,
    /// Not sealed by a holder of the key, or damaged on the way.
    #[error(
        "a frame in the name of {0} is forged or damaged; the sender may be of another cluster"
    )]
    Forged(NodeId),
    /// It was received before.
    #[error("a frame of {0} came twice")]
    Repeated(NodeId),
    /// It is so late that it may have been received before.
    #[error("a frame of {0} came too late to tell whether it came before")]
    Late(NodeId),
    /// From before the sender's last start.
    #[error(
        "a frame of {sender} is of generation {generation}, and {newest} was seen already; a \
             machine that was rolled back has to be checked before it may return"
    )]
    OldBoot {
        /// In whose name.
        sender: NodeId,
        /// The generation of the frame.
        generation: u64,
        /// The highest generation seen.
        newest: u64,
    },
    /// Two machines count as the same generation of the same node.
    #[error(
        "two machines speak as generation {generation} of {sender}: one is a copy of the \
             other; run 'pgaa-agent image seal' on images before they are copied"
    )]
    Twin {
        /// In whose name.
        sender: NodeId,
        /// Their generation.
        generation: u64,
    },
    /// This node hears itself.
    #[error("this node received its own frame: one of its seeds is another address of its own")]
    Echo,
    /// 2^64 frames were sealed.
    #[error("all counters are used up; restart the agent")]
    Exhausted,
}

impl FrameError {
    /// A word for counting.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            FrameError::Short(_) => "short",
            FrameError::Long(_) => "long",
            FrameError::Version(_) => "version",
            FrameError::UnknownKey(_) => "unknown_key",
            FrameError::NoKey => "no_key",
            FrameError::Forged(_) => "forged",
            FrameError::Repeated(_) => "repeated",
            FrameError::Late(_) => "late",
            FrameError::OldBoot { .. } => "old_boot",
            FrameError::Twin { .. } => "twin",
            FrameError::Echo => "echo",
            FrameError::Exhausted => "exhausted",
        }
    }
}

/// The part of a frame that anybody can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    key_id: u32,
    sender: NodeId,
    generation: u64,
    salt: [u8; SALT_BYTES],
    counter: u64,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        bytes.push(VERSION);
        bytes.extend(self.key_id.to_be_bytes());
        bytes.extend(self.sender.0.as_bytes());
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.salt);
        bytes.extend(self.counter.to_be_bytes());
        bytes
    }

    /// Reads the header; the rest is the sealed packet.
    fn decode(frame: &[u8]) -> Result<(Header, &[u8]), FrameError> {
        if frame.len() > DATAGRAM_BYTES_MAX {
            return Err(FrameError::Long(frame.len()));
        }
        let short = FrameError::Short(frame.len());
        if frame.len() < OVERHEAD_BYTES {
            return Err(short);
        }
        let mut rest = frame;
        let [version] = take(&mut rest).ok_or(short.clone())?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let header = Header {
            key_id: u32::from_be_bytes(take(&mut rest).ok_or(short.clone())?),
            sender: NodeId(Uuid::from_bytes(take(&mut rest).ok_or(short.clone())?)),
            generation: u64::from_be_bytes(take(&mut rest).ok_or(short.clone())?),
            salt: take(&mut rest).ok_or(short.clone())?,
            counter: u64::from_be_bytes(take(&mut rest).ok_or(short)?),
        };
        Ok((header, rest))
    }

    /// The subkey of this sender's boot.
    fn subkey(&self, key: &Key) -> Option<LessSafeKey> {
        let generation = self.generation.to_be_bytes();
        let info = [
            LABEL,
            self.sender.0.as_bytes().as_slice(),
            generation.as_slice(),
        ];
        let secret = Salt::new(HKDF_SHA256, &self.salt).extract(key.secret());
        let okm = secret.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk::<N>()?;
    *rest = left;
    Some(*taken)
}

/// Seals this node's packets. There must be one only for each start of the agent.
#[derive(Debug)]
pub struct Sealer {
    node: NodeId,
    generation: u64,
    salt: [u8; SALT_BYTES],
    counter: u64,
}

impl Sealer {
    /// `generation` is persisted before the first frame; `salt` comes from the operating system's
    /// random numbers and is used for this start alone.
    #[must_use]
    pub fn new(node: NodeId, generation: u64, salt: [u8; SALT_BYTES]) -> Sealer {
        Sealer {
            node,
            generation,
            salt,
            counter: 0,
        }
    }

    /// Seals one packet of at most [`super::tuning::PACKET_BYTES_MAX`] bytes.
    pub fn seal(&mut self, keyring: &Keyring, packet: &[u8]) -> Result<Vec<u8>, FrameError> {
        let length = packet.len().saturating_add(OVERHEAD_BYTES);
        if length > DATAGRAM_BYTES_MAX {
            return Err(FrameError::Long(length));
        }
        let key = keyring.sealing().ok_or(FrameError::NoKey)?;
        let counter = self.counter;
        self.counter = counter.checked_add(1).ok_or(FrameError::Exhausted)?;
        let Sealer {
            node: sender,
            generation,
            salt,
            ..
        } = *self;
        let header = Header {
            key_id: key.id(),
            sender,
            generation,
            salt,
            counter,
        };
        let subkey = header.subkey(key).ok_or(FrameError::NoKey)?;
        let mut frame = header.encode();
        frame.extend(packet);
        let (clear, sealed) = frame.split_at_mut(HEADER_BYTES);
        let tag = subkey
            .seal_in_place_separate_tag(header.nonce(), Aad::from(&*clear), sealed)
            .map_err(|_| FrameError::Long(length))?;
        frame.extend(tag.as_ref());
        Ok(frame)
    }
}

/// What was in a frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who sealed it, as far as holders of the key can be trusted.
    pub sender: NodeId,
    /// The packet.
    pub packet: Vec<u8>,
}

/// One sender's current boot.
#[derive(Debug)]
struct Stream {
    generation: u64,
    salt: [u8; SALT_BYTES],
    window: Window,
    heard: u64,
}

/// Opens the packets of others, each once.
#[derive(Debug)]
pub struct Opener {
    own: (NodeId, [u8; SALT_BYTES]),
    streams: BTreeMap<NodeId, Stream>,
    generations: BTreeMap<NodeId, u64>,
    turn: u64,
}

impl Opener {
    /// An opener beside the given sealer.
    #[must_use]
    pub fn beside(sealer: &Sealer) -> Opener {
        let own = (sealer.node, sealer.salt);
        Opener {
            own,
            streams: BTreeMap::new(),
            generations: BTreeMap::new(),
            turn: 0,
        }
    }

    /// Takes over which generation of each node was seen last, by this node before its restart
    /// or by others: frames of older ones are refused from the first on.
    pub fn expect_generations(&mut self, generations: BTreeMap<NodeId, u64>) {
        self.generations = generations;
    }

    /// Opens one frame. When it can't be opened nothing has changed.
    pub fn open(&mut self, keyring: &Keyring, frame: &[u8]) -> Result<Opened, FrameError> {
        let (header, sealed) = Header::decode(frame)?;
        if (header.sender, header.salt) == self.own {
            return Err(FrameError::Echo);
        }
        let key = keyring
            .get(header.key_id)
            .ok_or(FrameError::UnknownKey(header.key_id))?;
        self.check_age(&header)?;
        let forged = || FrameError::Forged(header.sender);
        let subkey = header.subkey(key).ok_or_else(forged)?;
        let clear = frame.get(..HEADER_BYTES).unwrap_or_default();
        let mut packet = sealed.to_vec();
        let length = subkey
            .open_in_place(header.nonce(), Aad::from(clear), &mut packet)
            .map_err(|_| forged())?
            .len();
        packet.truncate(length);
        // Judged only now: a forged frame must not make anybody look for a copied machine.
        if header.sender == self.own.0 || self.is_twin(&header) {
            let Header {
                sender, generation, ..
            } = header;
            return Err(FrameError::Twin { sender, generation });
        }
        self.record(&header);
        Ok(Opened {
            sender: header.sender,
            packet,
        })
    }

    fn check_age(&self, header: &Header) -> Result<(), FrameError> {
        let Header {
            sender,
            generation,
            salt,
            ..
        } = *header;
        let stream = self.streams.get(&sender);
        let expected = self.generations.get(&sender).copied().unwrap_or(0);
        let newest = stream.map_or(0, |stream| stream.generation).max(expected);
        if generation < newest {
            return Err(FrameError::OldBoot {
                sender,
                generation,
                newest,
            });
        }
        let same_boot = |stream: &&Stream| (stream.generation, stream.salt) == (generation, salt);
        let Some(stream) = stream.filter(same_boot) else {
            return Ok(());
        };
        match stream.window.check(header.counter) {
            Freshness::New => Ok(()),
            Freshness::Seen => Err(FrameError::Repeated(sender)),
            Freshness::Old => Err(FrameError::Late(sender)),
        }
    }

    fn is_twin(&self, header: &Header) -> bool {
        self.streams.get(&header.sender).is_some_and(|stream| {
            stream.generation == header.generation && stream.salt != header.salt
        })
    }

    fn record(&mut self, header: &Header) {
        self.turn += 1;
        let Header {
            generation, salt, ..
        } = *header;
        let fresh = || Stream {
            generation,
            salt,
            window: Window::default(),
            heard: 0,
        };
        let stream = self.streams.entry(header.sender).or_insert_with(fresh);
        if stream.generation < generation {
            *stream = fresh();
        }
        stream.heard = self.turn;
        stream.window.record(header.counter);
        if self.streams.len() > SENDERS_MAX {
            let quietest = self.streams.iter().min_by_key(|(_, stream)| stream.heard);
            if let Some(sender) = quietest.map(|(sender, _)| *sender) {
                self.streams.remove(&sender);
            }
        }
    }
}

#[cfg(test)]
mod tests;
