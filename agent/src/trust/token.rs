//! The join token `pgaa1.<id>.<secret>`: the only secret in a machine's user-data.
//!
//! Reads and mints tokens; what is known of them (expiry, use) is in `tokens`. The text comes
//! from outside: every form of damage is an error that says what a token looks like.

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The first part of every token; another number would be another format.
const PREFIX: &str = "pgaa1";
/// Longest text that is looked at: the longest token is 87 bytes, the rest is surrounding space.
const TEXT_BYTES_MAX: usize = 256;

/// What is wrong with a token's text. Never shows any of it: a damaged secret is still one.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// Not three parts, or another prefix.
    #[error("a join token looks like pgaa1.<id>.<64 hexadecimal digits>; this text does not")]
    Form,
    /// The part in the middle.
    #[error("the token's id must be 1 to 16 characters of a-z and 0-9")]
    Id,
    /// The last part.
    #[error("the token's secret must be 64 hexadecimal digits; it may have been cut when copied")]
    Secret,
}

/// The system's source of random numbers failed.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

/// The public part of a token: may be logged and sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

impl TokenId {
    /// Checks and wraps an id.
    pub fn new(text: &str) -> Result<TokenId, BadToken> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if (1..=16).contains(&text.len()) && text.chars().all(allowed) {
            Ok(TokenId(text.to_owned()))
        } else {
            Err(BadToken::Id)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for TokenId {
    type Error = BadToken;
    fn try_from(text: String) -> Result<TokenId, BadToken> {
        TokenId::new(&text)
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> String {
        id.0
    }
}

/// 256 secret bits.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Secret {
    /// Wraps bytes from a trusted place.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// Takes new bits from the system.
    pub fn random() -> Result<Secret, NoRandomness> {
        let mut secret = Secret([0; 32]);
        SystemRandom::new()
            .fill(&mut secret.0)
            .map_err(|_| NoRandomness)?;
        Ok(secret)
    }

    /// The bits themselves.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The HMAC-SHA256 key with these bits.
    #[must_use]
    pub fn hmac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }

    /// Are the two the same? Takes the same time wherever they differ.
    #[must_use]
    pub fn matches(&self, other: &Secret) -> bool {
        let tag = hmac::sign(&self.hmac_key(), b"pgaa equal secrets");
        hmac::verify(&other.hmac_key(), b"pgaa equal secrets", tag.as_ref()).is_ok()
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Zeroizing::new(String::with_capacity(64));
        for byte in self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Secret, BadToken> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(BadToken::Secret);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadToken::Secret);
        let mut secret = Secret([0; 32]);
        for (byte, pair) in secret.0.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(secret)
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Secret::from_hex(&text).map_err(serde::de::Error::custom)
    }
}

/// A whole token.
#[derive(Clone)]
pub struct JoinToken {
    /// The part that may be shown.
    pub id: TokenId,
    /// The part that is proven, and never sent.
    pub secret: Secret,
}

impl JoinToken {
    /// Reads a token; space around it is passed over.
    pub fn parse(text: &str) -> Result<JoinToken, BadToken> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(BadToken::Form);
        }
        let mut parts = text.trim().split('.');
        let (Some(prefix), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken::Form);
        };
        if prefix != PREFIX {
            return Err(BadToken::Form);
        }
        Ok(JoinToken {
            id: TokenId::new(id)?,
            secret: Secret::from_hex(secret)?,
        })
    }

    /// A new token with random parts.
    pub fn mint() -> Result<JoinToken, NoRandomness> {
        let mut id = Secret::random()?.to_hex().to_string();
        id.truncate(8);
        Ok(JoinToken {
            id: TokenId(id),
            secret: Secret::random()?,
        })
    }

    /// The token's text, to be shown once to the one who asked for it.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{PREFIX}.{}.{}",
            self.id,
            self.secret.to_hex().as_str()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_is_read_back() {
        let token = JoinToken::mint().unwrap();
        let text = token.reveal();
        let read = JoinToken::parse(&format!("  {}\n", text.as_str())).unwrap();
        assert_eq!(read.id, token.id);
        assert!(read.secret.matches(&token.secret));
        assert!(!read.secret.matches(&JoinToken::mint().unwrap().secret));
    }

    #[test]
    fn damage_is_named_and_not_shown() {
        let secret = "ab".repeat(32);
        let cases = [
            (String::new(), BadToken::Form),
            (format!("pgaa2.x.{secret}"), BadToken::Form),
            (format!("pgaa1.x.{secret}.y"), BadToken::Form),
            (format!("pgaa1..{secret}"), BadToken::Id),
            (format!("pgaa1.X.{secret}"), BadToken::Id),
            (format!("pgaa1.{}.{secret}", "x".repeat(17)), BadToken::Id),
            (format!("pgaa1.x.{}", &secret[1..]), BadToken::Secret),
            (format!("pgaa1.x.{}g", &secret[1..]), BadToken::Secret),
            (format!("pgaa1.x.{}+f", &secret[2..]), BadToken::Secret),
            (format!("pgaa1.x.{}ä", &secret[2..]), BadToken::Secret),
            ("pgaa1.x.".to_owned() + &"0".repeat(1 << 20), BadToken::Form),
        ];
        for (text, why) in cases {
            let error = JoinToken::parse(&text).err();
            assert_eq!(error, Some(why), "{text:.80}");
            assert!(!why.to_string().contains("abab"));
        }
    }

    #[test]
    fn any_bytes_are_either_a_token_or_an_error() {
        let token = JoinToken::mint().unwrap().reveal();
        for cut in 0..token.len() {
            assert!(JoinToken::parse(&token[..cut]).is_err(), "cut at {cut}");
            let mut bytes = token.as_bytes().to_vec();
            bytes[cut] = 0xC3;
            assert!(
                JoinToken::parse(&String::from_utf8_lossy(&bytes)).is_err(),
                "{cut}"
            );
        }
    }
}
