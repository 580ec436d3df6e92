//! Members that leave, and members that die and are forgotten.

use super::world::{Event, World};
use pgaa_core::life::Stage;

/// How long an operator waits before the command is tried again, ms.
const TRY_AGAIN: u64 = 1_000;

impl World {
    /// A member is destroyed for ever.
    pub fn die(&mut self, node: usize, forgotten_after: u64) {
        if self.nodes[node].destroyed || self.nodes[node].agent.life.stage != Stage::Ready {
            return;
        }
        self.count("members destroyed");
        self.switch_off(node);
        self.at(self.now + forgotten_after, Event::Bury { node });
    }

    /// An operator forgets it on a member, which asks the others: most of them must answer.
    pub fn bury_member(&mut self, node: usize) {
        let Some(operated) = self.operated() else {
            self.at(self.now + TRY_AGAIN, Event::Bury { node });
            return;
        };
        self.count("members forgotten");
        self.bury(node, operated);
        self.spread(operated);
    }

    /// A member that most others answer.
    fn operated(&self) -> Option<usize> {
        let ready = |node: &usize| self.nodes[*node].agent.life.stage == Stage::Ready;
        let mut there = (0..self.story.members).filter(ready);
        there.find(|node| self.most_answer(*node))
    }

    fn most_answer(&self, node: usize) -> bool {
        let members = (0..self.story.members).filter(|other| !self.nodes[*other].destroyed);
        let members: Vec<usize> = members.collect();
        let answer = members
            .iter()
            .filter(|other| self.answers(node, **other))
            .count();
        self.answers(node, node) && 2 * answer > members.len()
    }

    /// Whoever answers takes what this node has just decided.
    fn spread(&mut self, node: usize) {
        let Some(roster) = self.nodes[node].agent.roster.clone() else {
            return;
        };
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if self.answers(node, other) {
                self.merge(other, &roster);
            }
        }
    }

    /// An operator has a member leave: its gate is shut, and its last heartbeat closes its stream.
    pub fn leave(&mut self, node: usize) {
        let there = &self.nodes[node];
        if there.destroyed || there.agent.life.stage == Stage::Leaving {
            return;
        }
        if !there.agent.up || !there.server.up || there.agent.life.stage != Stage::Ready {
            self.at(self.now + TRY_AGAIN, Event::Leave { node });
            return;
        }
        let Some(last) = self.beat(node, true) else {
            self.at(self.now + TRY_AGAIN, Event::Leave { node });
            return;
        };
        self.note(|| format!("{node} leaves"));
        self.nodes[node].server.gate_open = false;
        let life = &mut self.nodes[node].agent.life;
        life.stage = Stage::Leaving;
        life.leave_after = Some(last);
        self.tick_soon(node);
    }

    /// It has nothing more to say, and tells the others.
    pub fn announce_leaving(&mut self, node: usize) -> Result<(), String> {
        if !self.most_answer(node) {
            return Err("most members don't answer".to_owned());
        }
        self.bury(node, node);
        self.spread(node);
        Ok(())
    }

    /// It removes its edges, and its machine is switched off.
    pub fn finish_leaving(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            self.drop_subscription(node, other);
            self.drop_slot(node, other);
        }
        self.count("members left");
        self.nodes[node].agent.life.stage = Stage::Left;
        self.nodes[node].left = true;
        self.switch_off(node);
    }
}
