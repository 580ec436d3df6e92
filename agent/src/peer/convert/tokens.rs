//! What members tell one another of join tokens.

use super::{Taken, bad, counted, node, node_out};
use crate::trust::{Secret, TokenEntry, TokenId};
use pgaa_core::time::Wall;
use pgaa_proto::v1 as wire;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A set of tokens.
pub(in crate::peer) fn tokens(set: wire::TokenSet) -> Taken<BTreeMap<TokenId, TokenEntry>> {
    counted("tokens", set.tokens)?
        .into_iter()
        .map(token)
        .collect()
}

/// A set of tokens for the wire.
pub(in crate::peer) fn tokens_out(tokens: &BTreeMap<TokenId, TokenEntry>) -> wire::TokenSet {
    wire::TokenSet {
        tokens: tokens
            .iter()
            .map(|(id, entry)| token_out(id, entry))
            .collect(),
    }
}

fn token(token: wire::Token) -> Taken<(TokenId, TokenEntry)> {
    let id = TokenId::new(&token.id).or_else(|_| bad("token.id", "is not a token's id"))?;
    let secret = Zeroizing::new(token.secret);
    let secret = <[u8; 32]>::try_from(secret.as_slice());
    let uses = counted("token.uses", token.uses)?;
    let entry = TokenEntry {
        secret: secret
            .map(Secret::new)
            .or_else(|_| bad("token.secret", "is not 32 bytes"))?,
        created_at: Wall(token.created_at_ms),
        expires_at: token.expires_at_ms.map(Wall),
        revoked: token.revoked,
        uses: uses
            .into_iter()
            .map(|used| Ok((node("token.uses.member", &used.member)?, used.count)))
            .collect::<Taken<_>>()?,
    };
    Ok((id, entry))
}

fn token_out(id: &TokenId, entry: &TokenEntry) -> wire::Token {
    let uses = entry.uses.iter();
    wire::Token {
        id: id.to_string(),
        secret: entry.secret.bytes().to_vec(),
        created_at_ms: entry.created_at.0,
        expires_at_ms: entry.expires_at.map(|at| at.0),
        revoked: entry.revoked,
        uses: uses
            .map(|(member, count)| wire::TokenUse {
                member: node_out(*member),
                count: *count,
            })
            .collect(),
    }
}
