//! Answers nodes that share a join token and, as yet, no CA.

use super::node::Node;
use crate::events::Severity;
use crate::peer::{Enrolled, PairingHost, Refusal};
use crate::trust::{TokenId, Tokens};
use pgaa_core::founding::{Hello, Request, Response};
use pgaa_core::ids::{Name, NodeId};
use std::sync::Arc;

/// The answers of one agent.
pub struct Answers(pub Arc<Node>);

#[tonic::async_trait]
impl PairingHost for Answers {
    fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    fn cluster_name(&self) -> &Name {
        &self.0.settings.policy.cluster_name
    }

    async fn founding(&self, from: NodeId, request: Request) -> Response {
        let node = &self.0;
        let refuse = |reason: &str| Response::PromiseHeld {
            holder: node.id(),
            reason: reason.to_owned(),
        };
        let Some(hello) = node.hello() else {
            return refuse("this node is still preparing its database; ask again");
        };
        let now = node.clocks.mono();
        let mut machine = node.founding();
        machine.set_me(hello);
        let (response, persist) = machine.request(now, from, &request);
        // What was promised must be on disk before the promise leaves.
        if persist {
            if let Err(error) = node.store.set_founding(machine.durable()) {
                log::error!("a promise could not be stored, so none is given: {error}");
                return refuse("this node can't store its promise; see its log");
            }
            machine.saved();
        }
        drop(machine);
        node.founding_changed.notify_one();
        response
    }

    async fn enrol(
        &self,
        from: NodeId,
        token: &TokenId,
        hello: Hello,
        csr_der: &[u8],
    ) -> Result<Enrolled, Refusal> {
        let node = &self.0;
        let roster = node
            .knowledge
            .roster()
            .ok_or_else(|| Refusal::new("not_a_member", "this node is in no cluster yet"))?;
        acceptable(&roster, from, &hello)?;
        let now = node.clocks.wall();
        let issued = node.with_authority(|authority| {
            let certificate = authority.issue(csr_der, roster.decree.cluster, from, now)?;
            Ok::<_, crate::trust::AuthorityError>((certificate, authority.ca_der().clone()))
        });
        let (certificate, ca) = match issued {
            Some(Ok(issued)) => issued,
            Some(Err(error)) => return Err(Refusal::new("bad_request", &error.to_string())),
            None => {
                let text = "this member does not hold the CA yet; ask another one";
                return Err(Refusal::new("no_authority", text));
            }
        };
        let keyring = node
            .keys()
            .map_err(|error| Refusal::new("no_keyring", &format!("{error:#}")))?;
        node.count_token(token, from);
        node.founding().settled(from);
        node.event(
            Severity::Info,
            "enrolled_member",
            format!(
                "{} ({from}) was enrolled with token {}",
                hello.name,
                token.as_str()
            ),
        );
        Ok(Enrolled {
            certificate_der: certificate.to_vec(),
            ca_der: ca.to_vec(),
            keyring,
            roster,
        })
    }
}

/// May this node become a member? Clones and the buried may not.
fn acceptable(
    roster: &pgaa_core::roster::Roster,
    from: NodeId,
    hello: &Hello,
) -> Result<(), Refusal> {
    if roster.tombstones.contains_key(&from) {
        let text = format!(
            "{from} was forgotten or has left: it can only come back as a new node; run \
             `pgaa-agent image seal` there, which gives it a new identity"
        );
        return Err(Refusal::new("buried", &text));
    }
    if hello.cluster_name != roster.decree.cluster_name {
        let text = format!(
            "this is cluster {:?}; correct cluster.name there",
            roster.decree.cluster_name.as_str()
        );
        return Err(Refusal::new("wrong_cluster", &text));
    }
    let twin = roster.records.values().find(|record| {
        record.node != from
            && record.system_identifier != 0
            && record.system_identifier == hello.system_identifier
    });
    if let Some(twin) = twin {
        let text = format!(
            "its PostgreSQL has the system identifier of {} ({}): it is a copy of that data \
             directory; give it a cluster of its own with initdb",
            twin.name, twin.node
        );
        return Err(Refusal::new("clone", &text));
    }
    Ok(())
}
