//! Between the wire and the types of the program: the only way in, with every field checked.
//!
//! What we encode is cut to the bounds that are checked when decoding, so that a long text of
//! ours never makes a peer refuse a whole roster.

mod check;
mod clock;
mod compare;
mod join;
mod mesh;
mod pairing;
mod record;
mod roster;
mod structure;
mod tokens;

pub(super) use check::{check_answer, check_answer_out, check_ask, check_ask_out};
pub(super) use compare::{
    asks_nothing, compare_answer, compare_answer_out, compare_ask, compare_ask_out,
};
pub(super) use join::{
    lease_answer, lease_answer_out, lease_ask, lease_ask_out, step_answer, step_answer_out,
    step_ask, step_ask_out,
};
pub(super) use mesh::{
    catalog, catalog_out, claim, claim_out, forget_answer, forget_answer_out, forget_proposal,
    forget_proposal_out, versions, versions_out,
};
pub(super) use pairing::{answer, answer_out, ask, ask_out};
pub(super) use roster::{roster, roster_out};
pub(super) use tokens::{tokens, tokens_out};

use super::types::Refusal;
use pgaa_core::ids::{Name, NodeId, Ordinal};
use pgaa_core::record::Endpoints;
use pgaa_proto::v1 as wire;
use serde::Deserialize;
use serde::de::value::{Error as WordError, StrDeserializer};
use std::net::{IpAddr, SocketAddr};
use thiserror::Error;
use uuid::Uuid;

/// Most members, tombstones, edges or tables that one message may carry of each.
const COUNT_MAX: usize = 4_096;
/// Longest text for people, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;
/// Longest short text (a version, a site), in bytes.
const SHORT_BYTES_MAX: usize = 64;

/// A peer's message makes no sense.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("the peer's message is not understood: {field} {problem}; do both run the same version?")]
pub struct BadMessage {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

type Taken<T> = Result<T, BadMessage>;

fn bad<T>(field: &'static str, problem: &'static str) -> Taken<T> {
    Err(BadMessage { field, problem })
}

fn required<T>(field: &'static str, value: Option<T>) -> Taken<T> {
    value.ok_or(BadMessage {
        field,
        problem: "is missing",
    })
}

fn uuid(field: &'static str, bytes: &[u8]) -> Taken<Uuid> {
    Uuid::from_slice(bytes).map_err(|_| BadMessage {
        field,
        problem: "is not 16 bytes",
    })
}

fn uuid_out(uuid: Uuid) -> Vec<u8> {
    uuid.as_bytes().to_vec()
}

/// A node's UUID.
pub(super) fn node(field: &'static str, bytes: &[u8]) -> Taken<NodeId> {
    uuid(field, bytes).map(NodeId)
}

/// A node's UUID, or none.
fn optional_node(field: &'static str, bytes: &[u8]) -> Taken<Option<NodeId>> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        node(field, bytes).map(Some)
    }
}

/// A node's UUID for the wire.
pub(super) fn node_out(node: NodeId) -> Vec<u8> {
    uuid_out(node.0)
}

fn name(field: &'static str, text: &str) -> Taken<Name> {
    Name::new(text).map_err(|_| BadMessage {
        field,
        problem: "is not a name",
    })
}

fn ordinal(field: &'static str, number: u32) -> Taken<Ordinal> {
    match u16::try_from(number) {
        Ok(number @ 1..) => Ok(Ordinal(number)),
        Ok(0) | Err(_) => bad(field, "is not an ordinal"),
    }
}

fn optional_ordinal(field: &'static str, number: Option<u32>) -> Taken<Option<Ordinal>> {
    number.map(|number| ordinal(field, number)).transpose()
}

/// A text that is shown to people: bounded, and without control characters, which could rewrite
/// what a terminal shows.
fn text(field: &'static str, text: String, bytes_max: usize) -> Taken<String> {
    if text.len() > bytes_max {
        return bad(field, "is too long");
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return bad(field, "has control characters");
    }
    Ok(text)
}

/// The same for the wire: cut, with control characters made spaces.
fn text_out(text: &str, bytes_max: usize) -> String {
    let mut taken = String::new();
    for c in text.chars() {
        let c = if c.is_control() && c != '\n' { ' ' } else { c };
        if taken.len() + c.len_utf8() > bytes_max {
            break;
        }
        taken.push(c);
    }
    taken
}

/// A refusal as it came from a peer.
pub(super) fn refusal(code: String, message: String) -> Taken<Refusal> {
    Ok(Refusal {
        code: text("refused.code", code, SHORT_BYTES_MAX)?,
        message: text("refused.message", message, TEXT_BYTES_MAX)?,
    })
}

/// A refusal's message for the wire.
pub(super) fn text_of_refusal(message: &str) -> String {
    text_out(message, TEXT_BYTES_MAX)
}

/// A word of an enum, as `serde` spells it.
fn word<'de, T: Deserialize<'de>>(field: &'static str, word: &'de str) -> Taken<T> {
    T::deserialize(StrDeserializer::<WordError>::new(word)).map_err(|_| BadMessage {
        field,
        problem: "is not a word this version knows",
    })
}

fn counted<T>(field: &'static str, list: Vec<T>) -> Taken<Vec<T>> {
    if list.len() > COUNT_MAX {
        bad(field, "has too many entries")
    } else {
        Ok(list)
    }
}

fn endpoint(field: &'static str, endpoint: Option<wire::Endpoint>) -> Taken<SocketAddr> {
    let endpoint = required(field, endpoint)?;
    let ip = if let Ok(bytes) = <[u8; 4]>::try_from(endpoint.ip.as_slice()) {
        IpAddr::from(bytes)
    } else if let Ok(bytes) = <[u8; 16]>::try_from(endpoint.ip.as_slice()) {
        IpAddr::from(bytes)
    } else {
        return bad(field, "is not an IP address");
    };
    match u16::try_from(endpoint.port) {
        Ok(port @ 1..) => Ok(SocketAddr::new(ip, port)),
        Ok(0) | Err(_) => bad(field, "is not a port"),
    }
}

fn endpoint_out(address: SocketAddr) -> Option<wire::Endpoint> {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    Some(wire::Endpoint {
        ip,
        port: u32::from(address.port()),
    })
}

fn endpoints(endpoints: Option<wire::Endpoints>) -> Taken<Endpoints> {
    let endpoints = required("endpoints", endpoints)?;
    Ok(Endpoints {
        grpc: endpoint("endpoints.grpc", endpoints.grpc)?,
        gossip: endpoint("endpoints.gossip", endpoints.gossip)?,
        postgres: endpoint("endpoints.postgres", endpoints.postgres)?,
    })
}

fn endpoints_out(endpoints: &Endpoints) -> Option<wire::Endpoints> {
    Some(wire::Endpoints {
        grpc: endpoint_out(endpoints.grpc),
        gossip: endpoint_out(endpoints.gossip),
        postgres: endpoint_out(endpoints.postgres),
    })
}

#[cfg(test)]
mod tests;
