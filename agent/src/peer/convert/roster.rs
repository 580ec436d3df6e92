//! Rosters and what they consist of.

use super::record::{record, record_out};
use super::{
    Taken, bad, counted, name, node, node_out, optional_ordinal, ordinal, required, uuid, uuid_out,
};
use pgaa_core::history::History;
use pgaa_core::ids::{ClusterId, DataEpoch, LineageId, NodeId};
use pgaa_core::roster::{Decree, FoundingMember, Roster, Tombstone};
use pgaa_proto::v1 as wire;
use std::collections::BTreeMap;

/// A roster, with whatever records it carries.
pub(in crate::peer) fn roster(roster: Option<wire::Roster>) -> Taken<Roster> {
    let roster = required("roster", roster)?;
    let records = counted("roster.records", roster.records)?;
    let tombstones = counted("roster.tombstones", roster.tombstones)?;
    let lineage = counted("roster.lineage", roster.lineage)?;
    let records: Vec<_> = records.into_iter().map(record).collect::<Taken<_>>()?;
    Ok(Roster {
        decree: decree(roster.decree)?,
        lineage: lineage
            .iter()
            .map(|link| uuid("roster.lineage", link).map(LineageId))
            .collect::<Taken<_>>()?,
        records: records
            .into_iter()
            .map(|record| (record.node, record))
            .collect(),
        tombstones: tombstones
            .into_iter()
            .map(|entry| Ok((node("tombstone.node", &entry.node)?, tombstone(entry)?)))
            .collect::<Taken<BTreeMap<_, _>>>()?,
        // Nobody takes another's word for what was seen.
        history: History::default(),
    })
}

/// A roster for the wire.
pub(in crate::peer) fn roster_out(roster: &Roster) -> wire::Roster {
    wire::Roster {
        decree: Some(decree_out(&roster.decree)),
        lineage: roster.lineage.iter().map(|link| uuid_out(link.0)).collect(),
        records: roster.records.values().map(record_out).collect(),
        tombstones: roster
            .tombstones
            .iter()
            .map(|(node, t)| tombstone_out(*node, t))
            .collect(),
    }
}

pub(super) fn decree(decree: Option<wire::Decree>) -> Taken<Decree> {
    let decree = required("decree", decree)?;
    let members = counted("decree.members", decree.members)?;
    if members.is_empty() {
        return bad("decree.members", "is empty");
    }
    Ok(Decree {
        cluster: ClusterId(uuid("decree.cluster", &decree.cluster)?),
        cluster_name: name("decree.cluster_name", &decree.cluster_name)?,
        founder: node("decree.founder", &decree.founder)?,
        founder_holds_data: decree.founder_holds_data,
        members: members.into_iter().map(member).collect::<Taken<_>>()?,
    })
}

pub(super) fn decree_out(decree: &Decree) -> wire::Decree {
    let member_out = |member: &FoundingMember| wire::FoundingMember {
        node: node_out(member.node),
        name: member.name.to_string(),
        ordinal: u32::from(member.ordinal.0),
        epoch: uuid_out(member.epoch.0),
    };
    wire::Decree {
        cluster: uuid_out(decree.cluster.0),
        cluster_name: decree.cluster_name.to_string(),
        founder: node_out(decree.founder),
        founder_holds_data: decree.founder_holds_data,
        members: decree.members.iter().map(member_out).collect(),
    }
}

fn member(member: wire::FoundingMember) -> Taken<FoundingMember> {
    Ok(FoundingMember {
        node: node("member.node", &member.node)?,
        name: name("member.name", &member.name)?,
        ordinal: ordinal("member.ordinal", member.ordinal)?,
        epoch: DataEpoch(uuid("member.epoch", &member.epoch)?),
    })
}

pub(super) fn tombstone(tombstone: wire::Tombstone) -> Taken<Tombstone> {
    Ok(Tombstone {
        name: name("tombstone.name", &tombstone.name)?,
        epoch: DataEpoch(uuid("tombstone.epoch", &tombstone.epoch)?),
        ordinal: optional_ordinal("tombstone.ordinal", tombstone.ordinal)?,
        left: tombstone.left,
        unsettled: tombstone.unsettled,
    })
}

pub(super) fn tombstone_out(node: NodeId, tombstone: &Tombstone) -> wire::Tombstone {
    wire::Tombstone {
        node: node_out(node),
        name: tombstone.name.to_string(),
        epoch: uuid_out(tombstone.epoch.0),
        ordinal: tombstone.ordinal.map(|ordinal| u32::from(ordinal.0)),
        left: tombstone.left,
        unsettled: tombstone.unsettled,
    }
}
