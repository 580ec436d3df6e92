//! The keys that seal gossip: one that seals, and all that still open.
//!
//! Knows nothing of frames. Secrets have no `Debug` and are wiped when they are dropped.

use crate::durable::{self, DurableError};
use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// How many keys a ring holds. Two serve a rotation; more may be needed while members are away.
const KEYS_MAX: usize = 8;

const FILE: &str = "keyring.json";

/// Why there is no keyring.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The file could not be read or written.
    #[error("the gossip keyring is not available")]
    Durable(#[from] DurableError),
    /// The file is there and holds no keyring.
    #[error(
        "{} holds no usable keyring; move it away, and the node fetches the keys anew when it \
         joins",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<KeyringError>,
    },
    /// Not one key, or more than can be kept.
    #[error("a keyring holds 1 to {KEYS_MAX} keys, not {0}")]
    Count(usize),
    /// Two keys with one id.
    #[error("two keys of the keyring have the id {0}")]
    Twice(u32),
    /// Not 32 bytes.
    #[error("key {0} of the keyring is not 32 bytes")]
    Length(u32),
    /// Not hexadecimal, or not JSON at all.
    #[error("the keyring is not what this version writes")]
    Format,
    /// The operating system gave no random numbers.
    #[error("no random numbers from the operating system")]
    NoRandom,
}

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: u32,
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

impl Key {
    /// A key as it comes from a peer.
    pub fn new(id: u32, secret: &[u8]) -> Result<Key, KeyringError> {
        let mut kept = Zeroizing::new([0; KEY_BYTES]);
        if secret.len() != KEY_BYTES {
            return Err(KeyringError::Length(id));
        }
        kept.copy_from_slice(secret);
        Ok(Key { id, secret: kept })
    }

    /// The number that frames name it by.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The secret itself.
    #[must_use]
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, ..)", self.id)
    }
}

/// The keys of one cluster. Never empty; the first one seals, all of them open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring(Vec<Key>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: u32,
    secret: String,
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Keyring {
    /// A ring with one new key: the founder's.
    pub fn generate(random: &dyn SecureRandom) -> Result<Keyring, KeyringError> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        random
            .fill(secret.as_mut_slice())
            .map_err(|_| KeyringError::NoRandom)?;
        Keyring::new(vec![Key::new(1, secret.as_slice())?])
    }

    /// The given keys; the first one seals.
    pub fn new(keys: Vec<Key>) -> Result<Keyring, KeyringError> {
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(KeyringError::Count(keys.len()));
        }
        for (i, key) in keys.iter().enumerate() {
            if keys.iter().take(i).any(|earlier| earlier.id == key.id) {
                return Err(KeyringError::Twice(key.id));
            }
        }
        Ok(Keyring(keys))
    }

    /// The key that seals.
    #[must_use]
    pub fn sealing(&self) -> Option<&Key> {
        self.0.first()
    }

    /// The key a frame names.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    /// All keys, the one that seals first.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Key> {
        self.0.iter()
    }

    /// Reads the ring kept in `state_dir`; `None` when there is none yet.
    pub fn load(state_dir: &Path) -> Result<Option<Keyring>, KeyringError> {
        let path = state_dir.join(FILE);
        let Some(bytes) = durable::read(&path)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let ring = Keyring::parse(&bytes);
        ring.map(Some).map_err(|source| KeyringError::Damaged {
            path,
            source: Box::new(source),
        })
    }

    fn parse(bytes: &[u8]) -> Result<Keyring, KeyringError> {
        let stored: Vec<StoredKey> =
            serde_json::from_slice(bytes).map_err(|_| KeyringError::Format)?;
        let keys = stored.iter().map(|key| {
            let secret = Zeroizing::new(unhex(&key.secret).ok_or(KeyringError::Format)?);
            Key::new(key.id, &secret)
        });
        Keyring::new(keys.collect::<Result<_, _>>()?)
    }

    /// Keeps the ring in `state_dir`, readable by the agent's user alone.
    pub fn store(&self, state_dir: &Path) -> Result<(), KeyringError> {
        let stored = self.0.iter().map(|key| StoredKey {
            id: key.id,
            secret: hex(key.secret.as_slice()),
        });
        let stored: Vec<StoredKey> = stored.collect();
        let bytes = serde_json::to_vec_pretty(&stored).map_err(|_| KeyringError::Format)?;
        let bytes = Zeroizing::new(bytes);
        Ok(durable::write(&state_dir.join(FILE), &bytes, 0o600)?)
    }
}

fn hex(bytes: &[u8]) -> String {
    // One allocation of the right size: a growing one would leave copies of the secret behind.
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or_default());
        }
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 2);
    for at in (0..text.len()).step_by(2) {
        bytes.push(u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_stored_is_loaded_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Keyring::load(directory.path()).unwrap(), None);
        let generated = Keyring::generate(&SystemRandom::new()).unwrap();
        let mut keys = vec![Key::new(9, &[0xab; 32]).unwrap()];
        keys.extend(generated.keys().cloned());
        let ring = Keyring::new(keys).unwrap();
        ring.store(directory.path()).unwrap();
        assert_eq!(Keyring::load(directory.path()).unwrap(), Some(ring.clone()));
        assert_eq!(ring.sealing().map(Key::id), Some(9));
        assert_eq!(ring.get(1), generated.sealing());
        let mode = directory
            .path()
            .join(FILE)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn two_generated_rings_differ() {
        let random = SystemRandom::new();
        assert_ne!(
            Keyring::generate(&random).unwrap(),
            Keyring::generate(&random).unwrap()
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        let ring = Keyring::new(vec![Key::new(7, &[0xab; 32]).unwrap()]).unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring([Key(7, ..)])");
    }

    #[test]
    fn damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let key = |id: u32, secret: &str| format!("{{\"id\":{id},\"secret\":\"{secret}\"}}");
        let good = "ab".repeat(32);
        let twice = format!("[{},{}]", key(1, &good), key(1, &good));
        let texts = [
            "".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            twice,
            format!("[{}]", key(1, "ab")),
            format!("[{}]", key(1, &"ä".repeat(32))),
            format!("[{}]", key(1, &"+1".repeat(32))),
        ];
        for text in texts {
            durable::write(&directory.path().join(FILE), text.as_bytes(), 0o600).unwrap();
            let error = Keyring::load(directory.path()).unwrap_err();
            assert!(
                error.to_string().contains("keyring.json holds no"),
                "{text}: {error}"
            );
        }
    }
}
