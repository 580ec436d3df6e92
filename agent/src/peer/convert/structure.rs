//! What members ask one another to compare structures. Names and definitions are the users': they
//! may hold any character, and are made harmless where they are shown.

use super::compare::TABLE_BYTES_MAX;
use super::{COUNT_MAX, Taken, bad, counted, required};
use crate::peer::types::CompareAsk;
use pgaa_core::verify::{Definition, PieceName, Pieces, RowHash};
use pgaa_proto::v1 as wire;
use std::collections::BTreeMap;

/// Longest kind of a piece, in bytes.
const KIND_BYTES_MAX: usize = 64;
/// Longest name of a piece, in bytes: of a function with its arguments.
const NAME_BYTES_MAX: usize = 2_048;
/// Longest definition, in bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Most pieces of one page.
const PIECES_MAX: usize = 50_000;

fn name(piece: Option<wire::PieceName>) -> Taken<PieceName> {
    let wire::PieceName { kind, name } = required("structure.name", piece)?;
    if kind.is_empty() || kind.len() > KIND_BYTES_MAX || name.len() > NAME_BYTES_MAX {
        return bad("structure.name", "is empty or too long");
    }
    Ok(PieceName { kind, name })
}

pub(super) fn name_out(piece: &PieceName) -> wire::PieceName {
    wire::PieceName {
        kind: piece.kind.clone(),
        name: piece.name.clone(),
    }
}

pub(super) fn pieces_ask(asked: wire::PiecesAsk) -> Taken<CompareAsk> {
    let tables = counted("structure.tables", asked.tables)?;
    if tables.iter().any(|table| table.len() > TABLE_BYTES_MAX) {
        return bad("structure.tables", "has a name that is too long");
    }
    let after = asked.after.map(|piece| name(Some(piece))).transpose()?;
    Ok(CompareAsk::Pieces(tables, after))
}

pub(super) fn definitions_ask(asked: wire::DefinitionsAsk) -> Taken<CompareAsk> {
    let pieces = counted("structure.pieces", asked.pieces)?;
    let pieces = pieces.into_iter().map(|piece| name(Some(piece)));
    Ok(CompareAsk::Definitions(
        pieces.collect::<Taken<_>>()?,
        asked.characters,
    ))
}

fn piece(piece: wire::Piece) -> Taken<(PieceName, RowHash)> {
    Ok((name(piece.piece)?, [piece.first, piece.second]))
}

fn piece_out(name: &PieceName, hash: RowHash) -> wire::Piece {
    wire::Piece {
        piece: Some(name_out(name)),
        first: hash[0],
        second: hash[1],
    }
}

pub(super) fn pieces(answer: wire::Pieces) -> Taken<Pieces> {
    if answer.pieces.len() > PIECES_MAX {
        return bad("structure.pieces", "has too many entries");
    }
    let pieces = answer.pieces.into_iter().map(piece);
    Ok((pieces.collect::<Taken<_>>()?, answer.more))
}

pub(super) fn pieces_out((pieces, more): &Pieces) -> wire::Pieces {
    let pieces = pieces.iter().map(|(name, hash)| piece_out(name, *hash));
    wire::Pieces {
        pieces: pieces.collect(),
        more: *more,
    }
}

pub(super) fn definitions(answer: wire::Definitions) -> Taken<BTreeMap<PieceName, Definition>> {
    let one = |definition: wire::Definition| {
        let wire::Definition {
            piece: of,
            text,
            within,
        } = definition;
        if text.len() > TEXT_BYTES_MAX || within.len() > COUNT_MAX {
            return bad("structure.definition", "is too long");
        }
        let (name, hash) = piece(required("structure.piece", of)?)?;
        Ok((name, Definition { hash, text, within }))
    };
    let definitions = counted("structure.definitions", answer.definitions)?;
    definitions.into_iter().map(one).collect()
}

pub(super) fn definitions_out(answer: &BTreeMap<PieceName, Definition>) -> wire::Definitions {
    let one = |(name, definition): (&PieceName, &Definition)| wire::Definition {
        piece: Some(piece_out(name, definition.hash)),
        text: definition.text.clone(),
        within: definition.within.clone(),
    };
    wire::Definitions {
        definitions: answer.iter().map(one).collect(),
    }
}
