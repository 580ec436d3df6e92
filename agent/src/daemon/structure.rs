//! Comparing what the members' databases are made of, for an operator. The choices are made in
//! `pgaa_core::verify`.

use super::circle::Circle;
use crate::events::Severity;
use crate::peer::{CompareAnswer, CompareAsk};
use pgaa_core::ids::NodeId;
use pgaa_core::verify::{
    Definition, Failure, PieceName, Pieces, StructureReport, Structures, structure,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks at pieces that differ: a schema change goes from node to node.
const REST: Duration = Duration::from_secs(1);

/// Compares the structure of these tables or, where none is named, of everything.
pub async fn compare(circle: &Circle<'_>, tables: &[String]) -> StructureReport {
    let outcome = structure(&Members { circle, tables }).await;
    let report = StructureReport::compared(outcome, |node| circle.name(node));
    let count = report.different.len() + report.more;
    if count > 0 {
        let text = format!(
            "a comparison of all nodes found {count} differences in structure; DDL isn't \
             replicated: pgaa-agent verify"
        );
        circle
            .node()
            .event(Severity::Warning, "structure_differs", text);
    }
    report
}

/// The members, as a comparison of their structures sees them.
struct Members<'a> {
    circle: &'a Circle<'a>,
    tables: &'a [String],
}

impl Structures for Members<'_> {
    fn nodes(&self) -> Vec<NodeId> {
        self.circle.nodes()
    }

    async fn pieces(&self, of: NodeId, after: Option<&PieceName>) -> Result<Pieces, Failure> {
        let ask = CompareAsk::Pieces(self.tables.to_vec(), after.cloned());
        let CompareAnswer::Pieces(pieces) = self.circle.compare(of, "", ask).await? else {
            return Err(self.circle.unfit(of));
        };
        Ok(pieces)
    }

    async fn definitions(
        &self,
        of: NodeId,
        pieces: &[PieceName],
        characters: u32,
    ) -> Result<BTreeMap<PieceName, Definition>, Failure> {
        let ask = CompareAsk::Definitions(pieces.to_vec(), characters);
        let CompareAnswer::Definitions(defined) = self.circle.compare(of, "", ask).await? else {
            return Err(self.circle.unfit(of));
        };
        Ok(defined)
    }

    async fn rest(&self) {
        sleep(REST).await;
    }
}
