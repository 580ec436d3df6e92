//! The questions and answers of a pairing.

use super::roster::{decree, decree_out, roster, roster_out};
use super::{
    TEXT_BYTES_MAX, Taken, bad, counted, endpoint, endpoint_out, endpoints, endpoints_out, name,
    node, node_out, optional_node, required, text, text_out, uuid, uuid_out,
};
use crate::peer::{Answer, Ask, Enrolled};
use crate::trust::Keyring;
use crate::trust::keyring::Key;
use crate::trust::names::DER_BYTES_MAX;
use pgaa_core::founding::{Ballot, DataHeld, Hello, Request, Response};
use pgaa_core::ids::{ClusterId, DataEpoch};
use pgaa_proto::v1 as wire;
use prost::Message;
use wire::answer::Answer as WireAnswer;
use wire::ask::Ask as WireAsk;

/// A question.
pub(in crate::peer) fn ask(ask: wire::Ask) -> Taken<Ask> {
    Ok(match required("ask", ask.ask)? {
        WireAsk::Hello(said) => Ask::Founding(Request::Hello(hello(said)?)),
        WireAsk::Promise(ask) => Ask::Founding(Request::AskPromise {
            hello: hello(required("promise.hello", ask.hello)?)?,
            ballot: ballot(ask.ballot)?,
        }),
        WireAsk::Release(release) => Ask::Founding(Request::ReleasePromise {
            candidate: node("release.candidate", &release.candidate)?,
            ballot: ballot(release.ballot)?,
        }),
        WireAsk::Decree(announced) => Ask::Founding(Request::Decree(decree(announced.decree)?)),
        WireAsk::Enrol(enrol) => Ask::Enrol {
            hello: hello(required("enrol.hello", enrol.hello)?)?,
            csr_der: der("enrol.csr_der", enrol.csr_der)?,
        },
    })
}

/// A question for the wire.
pub(in crate::peer) fn ask_out(ask: &Ask) -> wire::Ask {
    let ask = match ask {
        Ask::Founding(Request::Hello(hello)) => WireAsk::Hello(hello_out(hello)),
        Ask::Founding(Request::AskPromise { hello, ballot }) => {
            WireAsk::Promise(wire::AskPromise {
                hello: Some(hello_out(hello)),
                ballot: Some(ballot_out(*ballot)),
            })
        }
        Ask::Founding(Request::ReleasePromise { candidate, ballot }) => {
            WireAsk::Release(wire::ReleasePromise {
                candidate: node_out(*candidate),
                ballot: Some(ballot_out(*ballot)),
            })
        }
        Ask::Founding(Request::Decree(decree)) => WireAsk::Decree(wire::AnnounceDecree {
            decree: Some(decree_out(decree)),
        }),
        Ask::Enrol { hello, csr_der } => WireAsk::Enrol(wire::Enrol {
            hello: Some(hello_out(hello)),
            csr_der: csr_der.clone(),
        }),
    };
    wire::Ask { ask: Some(ask) }
}

/// An answer.
pub(in crate::peer) fn answer(answer: wire::Answer) -> Taken<Answer> {
    Ok(match required("answer", answer.answer)? {
        WireAnswer::Hello(said) => Answer::Founding(Response::Hello(hello(said)?)),
        WireAnswer::Promised(promised) => Answer::Founding(Response::Promised {
            ballot: ballot(promised.ballot)?,
        }),
        WireAnswer::Held(held) => Answer::Founding(Response::PromiseHeld {
            holder: node("held.holder", &held.holder)?,
            reason: text("held.reason", held.reason, TEXT_BYTES_MAX)?,
        }),
        WireAnswer::Released(_) => Answer::Founding(Response::Released),
        WireAnswer::Accepted(_) => Answer::Founding(Response::Accepted),
        WireAnswer::Enrolled(said) => Answer::Enrolled(enrolled(said)?),
    })
}

/// An answer for the wire.
pub(in crate::peer) fn answer_out(answer: &Answer) -> wire::Answer {
    let answer = match answer {
        Answer::Founding(Response::Hello(hello)) => WireAnswer::Hello(hello_out(hello)),
        Answer::Founding(Response::Promised { ballot }) => WireAnswer::Promised(wire::Promised {
            ballot: Some(ballot_out(*ballot)),
        }),
        Answer::Founding(Response::PromiseHeld { holder, reason }) => {
            WireAnswer::Held(wire::PromiseHeld {
                holder: node_out(*holder),
                reason: text_out(reason, TEXT_BYTES_MAX),
            })
        }
        Answer::Founding(Response::Released) => WireAnswer::Released(wire::Released {}),
        Answer::Founding(Response::Accepted) => WireAnswer::Accepted(wire::Accepted {}),
        Answer::Enrolled(enrolled) => WireAnswer::Enrolled(enrolled_out(enrolled)),
    };
    wire::Answer {
        answer: Some(answer),
    }
}

fn hello(hello: wire::Hello) -> Taken<Hello> {
    let data = match wire::hello::Data::try_from(hello.data) {
        Ok(wire::hello::Data::Unknown) => DataHeld::Unknown,
        Ok(wire::hello::Data::Empty) => DataHeld::Empty,
        Ok(wire::hello::Data::Rows) => DataHeld::Rows,
        Err(_) => return bad("hello.data", "is not a number this version knows"),
    };
    let cluster = match hello.cluster.as_slice() {
        [] => None,
        bytes => Some(ClusterId(uuid("hello.cluster", bytes)?)),
    };
    let expect = match u16::try_from(hello.expect) {
        Ok(expect @ 1..) => expect,
        Ok(0) | Err(_) => return bad("hello.expect", "is not a number of nodes"),
    };
    let known = counted("hello.known", hello.known)?;
    let promised = match optional_node("hello.promised_to", &hello.promised_to)? {
        Some(candidate) => Some((candidate, ballot(hello.promised_ballot)?)),
        None => None,
    };
    Ok(Hello {
        promised,
        node: node("hello.node", &hello.node)?,
        name: name("hello.name", &hello.name)?,
        cluster_name: name("hello.cluster_name", &hello.cluster_name)?,
        endpoints: endpoints(hello.endpoints)?,
        generation: hello.generation,
        epoch: DataEpoch(uuid("hello.epoch", &hello.epoch)?),
        system_identifier: hello.system_identifier,
        expect,
        data,
        cluster,
        enrols: hello.enrols,
        known: known
            .into_iter()
            .map(|peer| {
                Ok((
                    node("known.node", &peer.node)?,
                    endpoint("known.grpc", peer.grpc)?,
                ))
            })
            .collect::<Taken<_>>()?,
    })
}

fn hello_out(hello: &Hello) -> wire::Hello {
    let data = match hello.data {
        DataHeld::Unknown => wire::hello::Data::Unknown,
        DataHeld::Empty => wire::hello::Data::Empty,
        DataHeld::Rows => wire::hello::Data::Rows,
    };
    let known = hello.known.iter().map(|(node, grpc)| wire::KnownPeer {
        node: node_out(*node),
        grpc: endpoint_out(*grpc),
    });
    wire::Hello {
        node: node_out(hello.node),
        name: hello.name.to_string(),
        cluster_name: hello.cluster_name.to_string(),
        endpoints: endpoints_out(&hello.endpoints),
        generation: hello.generation,
        epoch: uuid_out(hello.epoch.0),
        system_identifier: hello.system_identifier,
        expect: u32::from(hello.expect),
        data: data.into(),
        cluster: hello
            .cluster
            .map(|cluster| uuid_out(cluster.0))
            .unwrap_or_default(),
        known: known.collect(),
        enrols: hello.enrols,
        promised_to: hello
            .promised
            .map(|(candidate, _)| node_out(candidate))
            .unwrap_or_default(),
        promised_ballot: hello.promised.map(|(_, ballot)| ballot_out(ballot)),
    }
}

fn ballot(ballot: Option<wire::Ballot>) -> Taken<Ballot> {
    let ballot = required("ballot", ballot)?;
    Ok(Ballot {
        generation: ballot.generation,
        round: ballot.round,
    })
}

fn ballot_out(ballot: Ballot) -> wire::Ballot {
    wire::Ballot {
        generation: ballot.generation,
        round: ballot.round,
    }
}

fn der(field: &'static str, der: Vec<u8>) -> Taken<Vec<u8>> {
    if der.is_empty() || der.len() > DER_BYTES_MAX {
        bad(field, "has a wrong size")
    } else {
        Ok(der)
    }
}

fn enrolled(enrolled: wire::Enrolled) -> Taken<Enrolled> {
    let keys = enrolled.keyring.iter().map(|key| {
        Key::new(key.id, &key.secret).or_else(|_| bad("enrolled.keyring", "has a wrong key"))
    });
    let keyring = Keyring::new(keys.collect::<Taken<_>>()?);
    let members = wire::Roster::decode(enrolled.roster.as_slice());
    let members = members.or_else(|_| bad("enrolled.roster", "can't be decoded"))?;
    Ok(Enrolled {
        certificate_der: der("enrolled.certificate_der", enrolled.certificate_der)?,
        ca_der: der("enrolled.ca_der", enrolled.ca_der)?,
        keyring: keyring.or_else(|_| bad("enrolled.keyring", "is no keyring"))?,
        roster: roster(Some(members))?,
    })
}

fn enrolled_out(enrolled: &Enrolled) -> wire::Enrolled {
    let key_out = |key: &Key| wire::GossipKey {
        id: key.id(),
        secret: key.secret().to_vec(),
    };
    wire::Enrolled {
        certificate_der: enrolled.certificate_der.clone(),
        ca_der: enrolled.ca_der.clone(),
        keyring: enrolled.keyring.keys().map(key_out).collect(),
        roster: roster_out(&enrolled.roster).encode_to_vec(),
    }
}
