//! The join tokens this node knows: kept in `tokens.json`, merged between members.
//!
//! A token's facts only ever tighten (revoked stays revoked, the earlier expiry holds, counts
//! grow), so merging what two members know needs no order. Must not decide who may enrol.

use super::token::{JoinToken, NoRandomness, Secret, TokenId};
use crate::durable::{self, DurableError};
use pgaa_core::ids::NodeId;
use pgaa_core::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// How many tokens are kept at most. A person makes a handful.
pub const TOKENS_MAX: usize = 256;

/// How long a founding token outlives the founding unless the operator says otherwise.
pub const OUTLIVES_FOUNDING: Duration = Duration::from_secs(24 * 60 * 60);

/// A change to the tokens was refused.
#[derive(Debug, Error)]
pub enum TokensError {
    /// It could not be made durable.
    #[error("the tokens can't be kept on disk")]
    Durable(#[from] DurableError),
    /// No random numbers.
    #[error("no token can be made")]
    Random(#[from] NoRandomness),
    /// Nobody knows it.
    #[error("there is no token {0}; `pgaa-agent token list` shows those there are")]
    Unknown(TokenId),
    /// The same id with another secret.
    #[error(
        "token {0} is known with another secret: give the token in the token file another id, \
         or make one with `pgaa-agent token create`"
    )]
    OtherSecret(TokenId),
    /// Too many.
    #[error("{TOKENS_MAX} tokens are kept already; revoke some: `pgaa-agent token list`")]
    TooMany,
}

/// Why a token can't be used.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum TokenRefused {
    /// This node has never heard of it.
    #[error("this node does not know the token")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Somebody took it back.
    #[error("the token was revoked")]
    Revoked,
}

/// What is known of one token; also what members tell one another.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenEntry {
    /// The secret part.
    pub secret: Secret,
    /// When it came to be here.
    pub created_at: Wall,
    /// When it ends; `None` until the founding for a founding token.
    pub expires_at: Option<Wall>,
    /// Taken back?
    pub revoked: bool,
    /// How many machines each member has enrolled with it, by member.
    pub uses: BTreeMap<NodeId, u64>,
}

impl TokenEntry {
    fn usable(&self, now: Wall) -> Result<(), TokenRefused> {
        if self.revoked {
            return Err(TokenRefused::Revoked);
        }
        match self.expires_at {
            Some(end) if end <= now => Err(TokenRefused::Expired),
            Some(_) | None => Ok(()),
        }
    }

    /// Tightens this entry by what another member knows. Returns whether anything changed.
    fn merge(&mut self, other: &TokenEntry) -> bool {
        let mut changed = other.revoked && !self.revoked;
        self.revoked |= other.revoked;
        let earlier = match (self.expires_at, other.expires_at) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        changed |= earlier != self.expires_at;
        self.expires_at = earlier;
        for (member, count) in &other.uses {
            let known = self.uses.entry(*member).or_default();
            changed |= count > known;
            *known = (*known).max(*count);
        }
        changed
    }
}

/// One line of `token list`: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenListing {
    /// Its id.
    pub id: TokenId,
    /// When it came to be on this node.
    pub created_at: Wall,
    /// When it ends; `None` for a founding token before the founding.
    pub expires_at: Option<Wall>,
    /// Machines enrolled with it, by all members known to have used it.
    pub uses: u64,
    /// Why it can't be used, when it can't.
    #[serde(skip)]
    pub refused: Option<TokenRefused>,
}

/// The tokens of this node.
pub struct Tokens {
    path: PathBuf,
    entries: Mutex<BTreeMap<TokenId, TokenEntry>>,
}

impl Tokens {
    /// Reads the tokens in `state_dir`.
    pub fn open(state_dir: &Path) -> Result<Tokens, DurableError> {
        let path = state_dir.join("tokens.json");
        let entries = durable::read_json(&path)?.unwrap_or_default();
        Ok(Tokens {
            path,
            entries: Mutex::new(entries),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TokenId, TokenEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies `change` to a copy, makes it durable, and only then believes it.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<TokenId, TokenEntry>) -> Result<T, TokensError>,
    ) -> Result<T, TokensError> {
        let mut entries = self.lock();
        let mut changed = entries.clone();
        let result = change(&mut changed)?;
        if changed.len() > TOKENS_MAX {
            return Err(TokensError::TooMany);
        }
        durable::write_json(&self.path, &changed)?;
        *entries = changed;
        Ok(result)
    }

    /// Makes a token that ends `ttl` from now. Its text is shown by `reveal`, here and never again.
    pub fn create(&self, now: Wall, ttl: Duration) -> Result<JoinToken, TokensError> {
        let token = JoinToken::mint()?;
        let entry = TokenEntry {
            secret: token.secret.clone(),
            created_at: now,
            expires_at: Some(after(now, ttl)),
            revoked: false,
            uses: BTreeMap::new(),
        };
        self.change(|entries| {
            entries.insert(token.id.clone(), entry);
            Ok(())
        })?;
        Ok(token)
    }

    /// Takes over the token of the token file. It has no end until the founding gives it one
    /// (`founded`): machines may be switched on days apart. A token that is known already keeps
    /// what is known of it.
    pub fn adopt(&self, token: &JoinToken, now: Wall) -> Result<(), TokensError> {
        match self.lock().get(&token.id) {
            Some(known) if known.secret.matches(&token.secret) => return Ok(()),
            Some(_) => return Err(TokensError::OtherSecret(token.id.clone())),
            None => {}
        }
        let entry = TokenEntry {
            secret: token.secret.clone(),
            created_at: now,
            expires_at: None,
            revoked: false,
            uses: BTreeMap::new(),
        };
        self.change(|entries| {
            entries.insert(token.id.clone(), entry);
            Ok(())
        })
    }

    /// The cluster is founded, or this node has joined one: tokens without an end get theirs.
    pub fn founded(&self, now: Wall, outlives: Duration) -> Result<(), TokensError> {
        if self.lock().values().all(|entry| entry.expires_at.is_some()) {
            return Ok(());
        }
        self.change(|entries| {
            for entry in entries.values_mut() {
                entry.expires_at = entry.expires_at.or(Some(after(now, outlives)));
            }
            Ok(())
        })
    }

    /// All tokens, without their secrets.
    #[must_use]
    pub fn list(&self, now: Wall) -> Vec<TokenListing> {
        let listing = |(id, entry): (&TokenId, &TokenEntry)| TokenListing {
            id: id.clone(),
            created_at: entry.created_at,
            expires_at: entry.expires_at,
            uses: entry.uses.values().sum(),
            refused: entry.usable(now).err(),
        };
        self.lock().iter().map(listing).collect()
    }

    /// Takes a token back, for ever.
    pub fn revoke(&self, id: &TokenId) -> Result<(), TokensError> {
        self.change(|entries| {
            let entry = entries
                .get_mut(id)
                .ok_or_else(|| TokensError::Unknown(id.clone()))?;
            entry.revoked = true;
            Ok(())
        })
    }

    /// The secret of a token that may be used now.
    pub fn find(&self, id: &TokenId, now: Wall) -> Result<Secret, TokenRefused> {
        let entries = self.lock();
        let entry = entries.get(id).ok_or(TokenRefused::Unknown)?;
        entry.usable(now)?;
        Ok(entry.secret.clone())
    }

    /// Counts one machine that `by` has enrolled.
    pub fn count_use(&self, id: &TokenId, by: NodeId) -> Result<(), TokensError> {
        self.change(|entries| {
            let entry = entries
                .get_mut(id)
                .ok_or_else(|| TokensError::Unknown(id.clone()))?;
            let count = entry.uses.entry(by).or_default();
            *count = count.saturating_add(1);
            Ok(())
        })
    }

    /// Everything that is known, for another member.
    #[must_use]
    pub fn share(&self) -> BTreeMap<TokenId, TokenEntry> {
        self.lock().clone()
    }

    /// Joins what another member knows. Returns whether anything changed. An id that is known
    /// with another secret is passed over: neither side can tell which is the right one.
    pub fn merge(&self, theirs: &BTreeMap<TokenId, TokenEntry>) -> Result<bool, TokensError> {
        let mut merged = self.share();
        let mut changed = false;
        for (id, entry) in theirs {
            let full = merged.len() >= TOKENS_MAX;
            match merged.get_mut(id) {
                Some(known) if known.secret.matches(&entry.secret) => changed |= known.merge(entry),
                Some(_) => {}
                None if full => {}
                None => {
                    merged.insert(id.clone(), entry.clone());
                    changed = true;
                }
            }
        }
        if changed {
            self.change(|entries| {
                *entries = merged;
                Ok(())
            })?;
        }
        Ok(changed)
    }
}

fn after(now: Wall, by: Duration) -> Wall {
    Wall(
        now.0
            .saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use uuid::Uuid;

    const NOW: Wall = Wall(1_700_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn store() -> (tempfile::TempDir, Tokens) {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        (directory, tokens)
    }

    #[test]
    fn tokens_survive_a_restart_in_a_private_file() {
        let (directory, tokens) = store();
        let token = tokens.create(NOW, DAY).unwrap();
        let again = Tokens::open(directory.path()).unwrap();
        assert!(again.find(&token.id, NOW).unwrap().matches(&token.secret));
        let meta = std::fs::metadata(directory.path().join("tokens.json")).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn expired_revoked_and_unknown_tokens_are_told_apart() {
        let (_directory, tokens) = store();
        let token = tokens.create(NOW, DAY).unwrap();
        let refused = |at| tokens.find(&token.id, at).err();
        assert_eq!(refused(NOW), None);
        assert_eq!(refused(after(NOW, DAY)), Some(TokenRefused::Expired));
        tokens.revoke(&token.id).unwrap();
        assert_eq!(refused(NOW), Some(TokenRefused::Revoked));
        let other = TokenId::new("other").unwrap();
        assert_eq!(tokens.find(&other, NOW).err(), Some(TokenRefused::Unknown));
        assert!(matches!(
            tokens.revoke(&other),
            Err(TokensError::Unknown(_))
        ));
    }

    #[test]
    fn a_founding_token_ends_a_day_after_the_founding() {
        let (_directory, tokens) = store();
        let token = JoinToken::mint().unwrap();
        tokens.adopt(&token, NOW).unwrap();
        tokens.adopt(&token, NOW).unwrap();
        let month = after(NOW, 30 * DAY);
        assert!(tokens.find(&token.id, month).is_ok());
        tokens.founded(month, OUTLIVES_FOUNDING).unwrap();
        tokens
            .founded(after(month, DAY), OUTLIVES_FOUNDING)
            .unwrap();
        assert_eq!(
            tokens.find(&token.id, after(month, DAY)).err(),
            Some(TokenRefused::Expired)
        );
        let forged = JoinToken {
            id: token.id.clone(),
            secret: Secret::random().unwrap(),
        };
        assert!(matches!(
            tokens.adopt(&forged, NOW),
            Err(TokensError::OtherSecret(_))
        ));
    }

    #[test]
    fn merging_tightens_in_any_order() {
        let (_one, a) = store();
        let (_two, b) = store();
        let token = JoinToken::mint().unwrap();
        let (left, right) = (NodeId(Uuid::from_u128(1)), NodeId(Uuid::from_u128(2)));
        for tokens in [&a, &b] {
            tokens.adopt(&token, NOW).unwrap();
        }
        a.count_use(&token.id, left).unwrap();
        a.founded(NOW, DAY).unwrap();
        b.count_use(&token.id, right).unwrap();
        b.count_use(&token.id, right).unwrap();
        b.revoke(&token.id).unwrap();
        let before = a.share();
        assert!(a.merge(&b.share()).unwrap());
        assert!(b.merge(&before).unwrap());
        assert!(!b.merge(&a.share()).unwrap());
        for tokens in [&a, &b] {
            let listing = &tokens.list(NOW)[0];
            assert_eq!(
                (listing.uses, listing.refused),
                (3, Some(TokenRefused::Revoked))
            );
            assert_eq!(listing.expires_at, Some(after(NOW, DAY)));
        }
    }

    #[test]
    fn another_secret_under_a_known_id_changes_nothing() {
        let (_directory, tokens) = store();
        let token = tokens.create(NOW, DAY).unwrap();
        let mut theirs = tokens.share();
        let entry = theirs.get_mut(&token.id).unwrap();
        entry.secret = Secret::random().unwrap();
        entry.revoked = true;
        assert!(!tokens.merge(&theirs).unwrap());
        assert!(tokens.find(&token.id, NOW).is_ok());
    }
}
