//! What pglogical does with a change that arrives, and what an agent does where it stands still.

use super::{Change, Row, World, id};
use pgaa_core::rows::{OLDER_RIVAL, Repair, Stamp, outlives};
use pgaa_core::verify::Key;

/// A change that has the value of another row.
struct Collision {
    key: Key,
    rival: Key,
    arrives: Stamp,
}

impl World {
    /// The next change of a stream is applied, as pglogical does it. What it logs is named; of
    /// updates that were applied it logs what nobody needs. A value that another row has is an
    /// error, unless it comes with an insert: the worker tries again and again.
    pub fn apply(&mut self, from: usize, to: usize) {
        let next = self.arrived(from, to);
        let change = self.nodes[from].sent[next].0.clone();
        self.note(|| format!("{to} applies {change:?} of {from}"));
        if let Err(collision) = self.change(to, &change) {
            self.note(|| format!("{to} can't: {:?} has the value", collision.rival));
            if self.stuck.insert((from, to)) {
                self.count("streams that stood still");
            }
            return;
        }
        self.stuck.remove(&(from, to));
        self.nodes[to].applied.insert(from, next + 1);
    }

    fn change(&mut self, to: usize, change: &Change) -> Result<(), Collision> {
        match change {
            Change::Insert(key, content, stamp) => self.insert(to, key, (*content, *stamp)),
            Change::Update(key, content, stamp) => self.update(to, key, (*content, *stamp)),
            // Whatever is there goes, and nothing is logged of it.
            Change::Delete(key) => {
                if self.nodes[to].rows.remove(key).is_none() {
                    self.name(to, key, None);
                }
                Ok(())
            }
        }
    }

    /// Where the key is there it is an update. Where only the value is, the row that has it is
    /// replaced by the newer one, under the newer one's key, or stays.
    fn insert(&mut self, to: usize, key: &Key, new: (i64, Stamp)) -> Result<(), Collision> {
        let (content, stamp) = new;
        if let Some(row) = self.nodes[to].rows.get(key).copied() {
            self.name(to, key, None);
            return match stamp.at_us >= row.stamp.at_us {
                true => self.replace(to, key, new),
                false => Ok(()),
            };
        }
        let Some(rival) = self.rival(to, key, content) else {
            self.put(to, key, new);
            return Ok(());
        };
        self.count("inserts that met a rival");
        self.name(to, key, None);
        self.name(to, &rival, None);
        if stamp.at_us >= self.nodes[to].rows[&rival].stamp.at_us {
            self.nodes[to].rows.remove(&rival);
            self.put(to, key, new);
        }
        Ok(())
    }

    fn update(&mut self, to: usize, key: &Key, new: (i64, Stamp)) -> Result<(), Collision> {
        let (_, stamp) = new;
        let Some(row) = self.nodes[to].rows.get(key).copied() else {
            self.name(to, key, None);
            return Ok(());
        };
        if row.stamp.author == stamp.author {
            return self.replace(to, key, new);
        }
        if stamp.at_us <= row.stamp.at_us {
            self.name(to, key, None);
        }
        match stamp.at_us >= row.stamp.at_us {
            true => self.replace(to, key, new),
            false => Ok(()),
        }
    }

    fn replace(&mut self, to: usize, key: &Key, new: (i64, Stamp)) -> Result<(), Collision> {
        if let Some(rival) = self.rival(to, key, new.0) {
            let (key, arrives) = (key.clone(), new.1);
            return Err(Collision {
                key,
                rival,
                arrives,
            });
        }
        self.put(to, key, new);
        Ok(())
    }

    /// The agent at the end of a stream that stands still takes the older of the two rows away, as
    /// `daemon::conflicts::rivals` does, and the worker tries again. It may be killed before.
    pub fn make_way(&mut self, (from, to): (usize, usize), killed: bool) {
        let change = self.nodes[from].sent[self.arrived(from, to)].0.clone();
        let Err(collision) = self.change(to, &change) else {
            // Another repair has made way meanwhile: this was the attempt that succeeded.
            let next = self.arrived(from, to) + 1;
            self.nodes[to].applied.insert(from, next);
            self.stuck.remove(&(from, to));
            return;
        };
        let Collision {
            key,
            rival,
            arrives,
        } = collision;
        self.name(to, &key, None);
        self.name(to, &rival, None);
        if killed {
            return;
        }
        let arrives = Stamp {
            author: id(from),
            ..arrives
        };
        let held = |key: &Key| self.nodes[to].rows.get(key).copied();
        let stays = outlives(
            (Some(arrives), &key),
            (held(&rival).map(|row| row.stamp), &rival),
        );
        let gone = if stays { rival } else { key };
        let token = held(&gone).map(|row: Row| row.token);
        let repair = Repair {
            key: gone,
            seen: token,
            right: None,
            rule: OLDER_RIVAL.to_owned(),
            looked: self.moment(),
        };
        self.mend(to, &repair);
        self.count("rows that made way for a newer one");
    }
}
