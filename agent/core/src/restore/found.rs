//! The whole mesh's way back: the steps by which a node with a restored database becomes the one
//! that founds a new mesh, and the others become empty nodes that join it.
//!
//! Everything is set aside and nothing removed, so that a wrong time can be named again. The steps
//! are in the order in which a crash between any two leaves a node that can't take part in either
//! mesh by accident.

use super::Target;
use serde::{Deserialize, Serialize};

/// One step. Each can be repeated, and is skipped when it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The backup is restored beside the old database, and recovered.
    Restore,
    /// What belonged to the old mesh is taken out of it.
    Strip,
    /// Identity, certificates, CA, keyring and roster of the old mesh are set aside.
    SetIdentityAside,
    /// The old database is set aside.
    SetDatabaseAside,
    /// The restored one takes its place.
    PutInPlace,
}

/// What becomes of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It founds the new mesh, with the restored rows.
    Founder,
    /// It joins it, empty.
    Joiner,
}

impl Role {
    /// What has to be done on it, in this order.
    #[must_use]
    pub fn steps(self) -> &'static [Step] {
        match self {
            Role::Founder => &[
                Step::Restore,
                Step::Strip,
                Step::SetIdentityAside,
                Step::SetDatabaseAside,
                Step::PutInPlace,
            ],
            Role::Joiner => &[Step::SetIdentityAside, Step::SetDatabaseAside],
        }
    }
}

/// How far it has come on this node; kept in a file until it is done. While it is there no agent
/// starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journey {
    /// What becomes of this node.
    pub role: Role,
    /// Part of the names under which things are set aside: when it began.
    pub stamp: String,
    /// The steps that are done.
    pub done: Vec<Step>,
    /// To which moment, and from whose backups: what was said when it began counts until it is done.
    #[serde(default)]
    pub past: Option<(Target, Option<String>)>,
}

impl Journey {
    /// The steps that are left.
    #[must_use]
    pub fn left(&self) -> Vec<Step> {
        let steps = self.role.steps().iter();
        steps
            .filter(|step| !self.done.contains(step))
            .copied()
            .collect()
    }

    /// Notes that a step is done.
    pub fn finish(&mut self, step: Step) {
        if !self.done.contains(&step) {
            self.done.push(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journey_goes_on_where_it_was() {
        let mut journey = Journey {
            role: Role::Founder,
            stamp: "x".to_owned(),
            done: Vec::new(),
            past: None,
        };
        assert_eq!(journey.left(), Role::Founder.steps());
        journey.finish(Step::Restore);
        journey.finish(Step::Restore);
        assert_eq!(journey.left().first(), Some(&Step::Strip));
        assert_eq!(journey.done.len(), 1);
        for step in Role::Founder.steps() {
            journey.finish(*step);
        }
        assert_eq!(journey.left(), []);
    }

    /// With the new database under the old identity a node would speak for a member that it isn't
    /// any more.
    #[test]
    fn the_identity_goes_before_the_database_is_touched() {
        for role in [Role::Founder, Role::Joiner] {
            let place = |step| role.steps().iter().position(|of| *of == step);
            let identity = place(Step::SetIdentityAside).unwrap();
            assert!(identity < place(Step::SetDatabaseAside).unwrap());
        }
    }
}
