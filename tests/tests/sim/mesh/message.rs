//! What agents say to one another: the founding's questions, enrolment, records, gossip.

use pgaa_core::founding::{Request, Response};
use pgaa_core::ids::NodeId;
use pgaa_core::roster::Roster;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// The life of the asking agent, and the number of its question.
pub type Connection = (u64, usize);

#[derive(Clone)]
pub enum Body {
    Ask(Connection, Request),
    Answer(Connection, Response),
    Enrol,
    Enrolled(Rc<Roster>),
    /// Versions known, records offered, and whether an answer is wanted.
    Exchange(Rc<BTreeMap<NodeId, u64>>, Rc<Roster>),
    /// Records that were newer, and those that are wanted.
    Exchanged(Rc<Roster>, Vec<NodeId>),
    AskAuthority,
    Authority,
    Gossip(Rc<Vec<u8>>),
}

/// A message, and who sent it, as the connection proves.
#[derive(Clone)]
pub struct Message {
    pub from: NodeId,
    pub body: Body,
}

/// One line of the trace: what a reader needs, not all that was said.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.from.short())?;
        let versions = |roster: &Roster| {
            let versions = roster
                .records
                .values()
                .map(|r| format!("{}:{}", r.name, r.version));
            versions.collect::<Vec<_>>().join(" ")
        };
        match &self.body {
            Body::Ask(_, Request::Hello(hello)) => write!(f, "hello? {:?}", hello.cluster),
            Body::Ask(_, Request::AskPromise { ballot, .. }) => write!(f, "promise? {ballot:?}"),
            Body::Ask(_, Request::ReleasePromise { .. }) => write!(f, "release!"),
            Body::Ask(_, Request::Decree(decree)) => write!(f, "decree! {}", decree.cluster),
            Body::Answer(_, Response::Hello(hello)) => write!(f, "hello. {:?}", hello.cluster),
            Body::Answer(_, other) => write!(f, "{other:?}"),
            Body::Enrol => write!(f, "enrol?"),
            Body::Enrolled(roster) => write!(f, "enrolled. {}", versions(roster)),
            Body::Exchange(_, offer) => write!(f, "records? {}", versions(offer)),
            Body::Exchanged(roster, want) => {
                write!(f, "records. {} wanted {}", versions(roster), want.len())
            }
            Body::AskAuthority => write!(f, "authority?"),
            Body::Authority => write!(f, "authority."),
            Body::Gossip(bytes) => write!(f, "gossip, {} bytes", bytes.len()),
        }
    }
}
