//! The backups of one node: whether it owns them, what its server does with WAL, when a backup is
//! taken. What is decided is the core's; what pgBackRest does is `backup`'s.
//!
//! One thing at a time is asked of the repository, beside the loop, which never waits for it: a
//! repository that hangs must not keep anybody from seeing that WAL piles up.

mod acts;
mod archive;
mod errand;
mod pace;
mod retention;
mod tell;

pub use acts::{list, move_to, owner, run_now};

use super::node::Node;
use crate::backup::{PgBackRest, Version};
use crate::events::Severity;
use archive::Looked;
use errand::{Doing, Errand};
use log::warn;
use pace::Pace;
use pgaa_core::backup::archiving::Archiving;
use pgaa_core::backup::claim::{
    self, BackupWord, Member, Standing, Vacancy, Verdict, Wish, highest,
};
use pgaa_core::backup::reach::Marks;
use pgaa_core::backup::repository::StanzaContents;
use pgaa_core::backup::{BackupKind, Stanza};
use pgaa_core::ids::NodeId;
use pgaa_core::life::Stage;
use pgaa_core::observed::Reach;
use pgaa_core::roster::Roster;
use pgaa_core::state::NodeState;
use pgaa_core::status::{BackupReport, Finding};
use pgaa_core::time::{Mono, Now, Wall};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Between two turns.
const TURN: Duration = Duration::from_secs(1);

/// What the tasks of one agent share about the backups.
#[derive(Debug)]
pub struct Backups {
    /// pgBackRest; `None` when backups are off.
    pub tool: Option<PgBackRest>,
    /// What this node says of the backups.
    pub word: watch::Sender<BackupWord>,
    /// For the report.
    shown: Mutex<Shown>,
    /// What an operator has asked for.
    asked: Mutex<Asked>,
    /// Rings when somebody has asked for something.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Shown {
    report: Option<BackupReport>,
    findings: Vec<Finding>,
}

#[derive(Debug, Default)]
struct Asked {
    wish: Option<Wish>,
    backup: Option<BackupKind>,
}

impl Backups {
    /// The backups that the settings want. Nothing is written or run.
    #[must_use]
    pub fn new(tool: Option<PgBackRest>) -> Backups {
        Backups {
            tool,
            word: watch::channel(BackupWord::default()).0,
            shown: Mutex::default(),
            asked: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the status; `None` when backups are off.
    #[must_use]
    pub fn report(&self) -> Option<BackupReport> {
        self.shown().report.clone()
    }

    /// What somebody should know.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        self.shown().findings.clone()
    }
}

/// What must not be forgotten: one file in the state directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who this node is to the backups.
    pub standing: Standing,
    /// What its server does with WAL.
    pub archiving: Archiving,
}

/// Keeps the backups of one node.
struct Keeper {
    node: Arc<Node>,
    tool: PgBackRest,
    held: Held,
    vacancy: Vacancy,
    /// Which pgBackRest this is, or why it won't do; `None` before it was asked.
    fitness: Option<Result<Version, String>>,
    /// This node's own stanza, once its server was seen.
    own: Option<Stanza>,
    looked: Option<Looked>,
    /// Moments that can be restored once more is archived, and the last that can.
    marks: Marks,
    until: Option<Wall>,
    /// Since when a command of the server's is told to end.
    ending_since: Option<Mono>,
    contents: Vec<StanzaContents>,
    contents_at: Option<Mono>,
    /// Epochs of all claims and whether they are covered, when the repository was last listed: a
    /// change says that there is something new in it.
    listed_for: Vec<(u64, bool)>,
    doing: Option<Doing>,
    /// When which errand may be tried next, and why the last one failed.
    pace: Pace,
    members: Vec<Member>,
}

/// Keeps the backups for as long as the task lives.
pub async fn run(node: Arc<Node>) {
    let Some(tool) = node.backups.tool.clone() else {
        return std::future::pending().await;
    };
    let held = node.store.backup().unwrap_or_else(|error| {
        warn!("who owned the backups is not known any more: {error}");
        Held::default()
    });
    let mut keeper = Keeper {
        tool,
        held,
        vacancy: Vacancy::default(),
        fitness: None,
        own: None,
        looked: None,
        marks: Marks::default(),
        until: None,
        ending_since: None,
        contents: Vec::new(),
        contents_at: None,
        listed_for: Vec::new(),
        doing: None,
        pace: Pace::default(),
        members: Vec::new(),
        node,
    };
    loop {
        keeper.turn().await;
        keeper.rest().await;
    }
}

impl Keeper {
    /// Until the next turn; what was begun goes on meanwhile.
    async fn rest(&mut self) {
        let node = Arc::clone(&self.node);
        let Some(doing) = &mut self.doing else {
            tokio::select! {
                () = node.clocks.pulse(TURN) => {}
                () = node.backups.changed.notified() => {}
            }
            return;
        };
        let outcome = tokio::select! {
            outcome = &mut doing.work => Some(outcome),
            () = node.clocks.pulse(TURN) => None,
            () = node.backups.changed.notified() => None,
        };
        if let Some(outcome) = outcome {
            let errand = doing.errand.clone();
            self.doing = None;
            self.came_back(errand, outcome);
        }
    }

    async fn turn(&mut self) {
        let now = self.node.clocks.now();
        self.own = self.stanza().or(self.own.take());
        self.look(now).await;
        let roster = self.node.knowledge.roster();
        if let Some(roster) = &roster {
            self.members = self.members_of(roster, now);
            if self.claim(roster, now) {
                self.members = self.members_of(roster, now);
            }
            self.note_covered();
        }
        self.archive(now).await;
        self.errands(now);
        self.tell(roster.as_ref(), now);
    }

    fn stanza(&self) -> Option<Stanza> {
        let system = self.node.local.borrow().system_identifier;
        (system != 0).then(|| Stanza::new(self.node.id(), system))
    }

    /// Why this node can't own the backups; `None` when it could.
    fn unable(&self) -> Option<String> {
        let life = self.node.knowledge.life();
        if life.stage != Stage::Ready || life.quarantined.is_some() {
            return Some("this node is not ready".to_owned());
        }
        match &self.fitness {
            None => return Some("pgBackRest was not asked yet".to_owned()),
            Some(Err(why)) => return Some(why.clone()),
            Some(Ok(_)) => {}
        }
        let (Some(own), Some(looked)) = (&self.own, &self.looked) else {
            return Some("PostgreSQL has not answered yet".to_owned());
        };
        match &looked.facts {
            Ok(facts) => facts.foreign(&self.tool.archive_command(own)),
            Err(why) => Some(why.clone()),
        }
    }

    fn members_of(&self, roster: &Roster, now: Now) -> Vec<Member> {
        let me = self.node.id();
        let policy = &self.node.settings.policy.backup;
        let reach = self.node.knowledge.reach(now.mono);
        let able = self.unable().is_none();
        let wish = self.node.backups.asked().wish;
        let view = |node: NodeId| {
            let local = node == me;
            let record = roster.records.get(&node);
            let word = record.map(|record| &record.backup);
            let said = |record: &pgaa_core::record::NodeRecord| {
                record.state == NodeState::Ready && record.backup.able
            };
            let settings = &self.node.settings.node;
            let (name, site) = match record {
                _ if local => (settings.name.to_string(), settings.site.clone()),
                Some(record) => (record.name.to_string(), record.site.clone()),
                None => (roster.name_of(node), String::new()),
            };
            Member {
                node,
                reachable: local || reach.get(&node) == Some(&Reach::Up),
                able: if local {
                    able
                } else {
                    record.is_some_and(said)
                },
                place: claim::place(policy, &name, &site),
                claim: match local {
                    true => self.held.standing.claim,
                    false => word.and_then(|word| word.claim),
                },
                wish: match local {
                    true => wish,
                    false => word.and_then(|word| word.wish),
                },
            }
        };
        roster.members().into_iter().map(view).collect()
    }

    /// Decides about the claim; says whether anything has changed.
    fn claim(&mut self, roster: &Roster, now: Now) -> bool {
        // One that is set apart, or gone, speaks for nobody. Others that aren't ready are not able,
        // but hear of higher claims.
        let life = self.node.knowledge.life();
        if life.quarantined.is_some() || matches!(life.stage, Stage::Single | Stage::Left) {
            return false;
        }
        let inputs = claim::Inputs {
            now: now.mono,
            me: self.node.id(),
            cluster: roster.decree.cluster,
            hand_over: self.node.settings.policy.backup.hand_over,
            members: &self.members,
        };
        let verdict = claim::decide(&inputs, &self.held.standing, &mut self.vacancy);
        let heard = highest(&inputs, &self.held.standing);
        let standing = claim::settle(&self.held.standing, verdict, heard, now.wall);
        if standing == self.held.standing {
            return false;
        }
        let archives = standing.archives();
        let closing = self.held.archiving.closing.filter(|_| !archives);
        let held = Held {
            standing,
            archiving: self.held.archiving.closing(closing),
        };
        // What others are told has to be on disk before.
        let held = self.hold(held);
        if held {
            self.note_verdict(roster, verdict);
        }
        held
    }

    /// Stores what must not be forgotten; only what is stored counts.
    fn hold(&mut self, held: Held) -> bool {
        if held == self.held {
            return true;
        }
        match self.node.store.set_backup(&held) {
            Ok(()) => {
                self.held = held;
                true
            }
            Err(error) => {
                warn!("what becomes of the backups can't be stored: {error}");
                false
            }
        }
    }

    fn note_verdict(&mut self, roster: &Roster, verdict: Verdict) {
        let text = match verdict {
            Verdict::Stay => return,
            Verdict::Take { epoch, wished } => {
                let why = if wished { ", by command" } else { "" };
                format!("this node owns the backups now (epoch {epoch}){why}")
            }
            Verdict::Yield { to, epoch } => format!(
                "{} owns the backups now (epoch {epoch}); this node archives until it has taken a full \
                 backup",
                roster.name_of(to)
            ),
            Verdict::Resign => "this node is not to own the backups any more".to_owned(),
            Verdict::Relieved => {
                "another node has taken a full backup: this one archives no more".to_owned()
            }
        };
        self.node.event(Severity::Info, "backup_owner", text);
        // A backup that another node takes as well helps nobody.
        let ends = matches!(verdict, Verdict::Yield { .. } | Verdict::Resign);
        let taking = |doing: &Doing| matches!(doing.errand, Errand::Backup(_));
        if ends && self.doing.as_ref().is_some_and(taking) {
            self.doing = None;
        }
    }
}
