//! Questions about all tubes at once: `stats` and `list-tubes`.
//!
//! Of each kind one is under way per node and shard, however many clients ask: those who ask meanwhile share the next one. So
//! a thousand monitors cost what one costs, and heartbeats and appends never stand behind them.
//!
//! `stats` takes sums that are kept up to date. A list is gathered in steps:
//!
//! ```text
//!     ask the leader for a page of the tubes without a job ──> more? ask again ──> walk the own state's tubes ──> answer
//!       (one page a turn, at both ends)                                             (so many a turn)
//! ```
//!
//! A tube that exists as long as a list is gathered must be in it, once. It may cross over meanwhile: what gets its first job
//! is known from the pages, and what loses its last one is noted as it does.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::effect::ConnectionId;
use super::{Moment, Shard};
use crate::api::beanstalkd::stats::push_item;
use crate::api::{Answer, ShardStats, TubeLines};
use crate::job::TubeCursor;
use crate::net::message::{ReadAbout, Soft};
use crate::types::Nanos;

/// The tube that every door lists first by itself.
const DEFAULT_TUBE: &[u8] = b"default";

#[derive(Debug)]
struct Asker {
    connection: ConnectionId,
    ticket: u64,
    since: Nanos,
}

/// Those who ask one kind of question.
#[derive(Debug, Default)]
struct Askers {
    /// Of the one under way.
    present: Vec<Asker>,
    next: Vec<Asker>,
}

impl Askers {
    /// The next question begins: those who waited for it.
    fn advance(&mut self) -> bool {
        self.present = std::mem::take(&mut self.next);
        !self.present.is_empty()
    }

    fn all(&mut self) -> [&mut Vec<Asker>; 2] {
        [&mut self.present, &mut self.next]
    }
}

#[derive(Debug, Default)]
pub struct Surveys {
    stats: Askers,
    is_stats_under_way: bool,
    list: Askers,
    pub(super) walk: Option<Walk>,
}

/// A list that is being gathered.
#[derive(Debug, Default)]
pub(super) struct Walk {
    stage: Stage,
    /// The tubes without a job that the leader told of, and those that have lost their last job since.
    bare: BTreeSet<Bytes>,
    lines: String,
    /// The page that was asked for is to be thrown away, and the list begun anew.
    is_void: bool,
}

#[derive(Debug, Default)]
enum Stage {
    /// A page is to be asked for: the one behind this name, or the first.
    #[default]
    First,
    Next(Bytes),
    /// A page is on its way.
    Asked,
    /// The tubes from `next` up to `end` are still to be looked at.
    Walking {
        next: TubeCursor,
        end: TubeCursor,
    },
    /// All that is left are the tubes without a job.
    Ending,
}

/// A read that a survey needs; `reads` has it confirmed.
#[derive(Debug)]
pub enum SurveyRead {
    Stats,
    /// A page of a list.
    Page {
        after: Option<Bytes>,
    },
}

impl SurveyRead {
    #[must_use]
    pub fn about(&self) -> ReadAbout {
        match self {
            SurveyRead::Stats => ReadAbout::TubeCount,
            SurveyRead::Page { after } => ReadAbout::BareTubes { after: after.clone() },
        }
    }
}

impl Surveys {
    /// The client is gone.
    pub fn forget(&mut self, connection: ConnectionId) {
        for askers in self.stats.all().into_iter().chain(self.list.all()) {
            askers.retain(|asker| asker.connection != connection);
        }
    }

    /// Gives up on those who have waited for a leader since this moment, or longer; who they are.
    pub fn take_since(&mut self, latest: Nanos) -> Vec<ConnectionId> {
        let mut given_up = Vec::new();
        for askers in self.stats.all().into_iter().chain(self.list.all()) {
            given_up.extend(askers.extract_if(.., |asker| asker.since <= latest).map(|asker| asker.connection));
        }
        given_up
    }

    /// Since when the first has waited.
    #[must_use]
    pub fn oldest(&self) -> Option<Nanos> {
        let all = [&self.stats.present, &self.stats.next, &self.list.present, &self.list.next];
        all.into_iter().flatten().map(|asker| asker.since).min()
    }

    /// The state jumps: what was gathered of it is of another one. A page that is on its way is of
    /// no use either: a tube may have had a job when the leader wrote it, and have lost it in what
    /// was skipped here.
    pub fn begin_anew(&mut self) {
        let Some(walk) = self.walk.as_mut() else { return };
        match walk.stage {
            Stage::Asked => (walk.is_void, walk.bare) = (true, BTreeSet::new()),
            _ => *walk = Walk::default(),
        }
    }

    /// Whether a step can be taken now.
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| !matches!(walk.stage, Stage::Asked))
    }
}

impl Shard {
    pub(super) fn ask_for_stats(&mut self, moment: Moment, connection: ConnectionId, ticket: u64) {
        self.surveys.stats.next.push(Asker { connection, ticket, since: moment.now });
        if !self.surveys.is_stats_under_way {
            self.begin_stats(moment);
        }
    }

    fn begin_stats(&mut self, moment: Moment) {
        self.surveys.is_stats_under_way = self.surveys.stats.advance();
        if self.surveys.is_stats_under_way {
            self.begin_survey_read(moment, SurveyRead::Stats);
        }
    }

    pub(super) fn ask_for_list(&mut self, moment: Moment, connection: ConnectionId, ticket: u64) {
        self.surveys.list.next.push(Asker { connection, ticket, since: moment.now });
        if self.surveys.walk.is_none() {
            self.begin_list(moment);
        }
    }

    fn begin_list(&mut self, moment: Moment) {
        self.surveys.walk = self.surveys.list.advance().then(Walk::default);
        // The first page is asked for at once: most lists have no other.
        self.take_list_step(moment, 0);
    }

    /// A survey came to no end: those who wait for it. Who asked since then begins another one.
    pub(super) fn give_up_survey(&mut self, moment: Moment, read: &SurveyRead) -> Vec<ConnectionId> {
        let askers = match read {
            SurveyRead::Stats => std::mem::take(&mut self.surveys.stats.present),
            SurveyRead::Page { .. } => std::mem::take(&mut self.surveys.list.present),
        };
        match read {
            SurveyRead::Stats => self.begin_stats(moment),
            SurveyRead::Page { .. } => self.begin_list(moment),
        }
        askers.into_iter().map(|asker| asker.connection).collect()
    }

    /// What a survey's read needs is applied here.
    pub(super) fn handle_survey_read(&mut self, moment: Moment, read: SurveyRead, soft: Soft) {
        match (read, soft) {
            (SurveyRead::Stats, soft) => {
                let stats = Answer::ShardStats(Box::new(self.shard_stats(&soft)));
                for Asker { connection, ticket, .. } in std::mem::take(&mut self.surveys.stats.present) {
                    self.answer(connection, ticket, stats.clone());
                }
                self.begin_stats(moment);
            }
            (SurveyRead::Page { .. }, Soft::BareTubes { names, is_more }) => {
                let Some(walk) = self.surveys.walk.as_mut() else { return };
                if walk.is_void {
                    *walk = Walk::default();
                    return;
                }
                let last = names.last().cloned().filter(|_| is_more);
                // A copy: the frame that they came in is not to be kept for them.
                walk.bare.extend(names.iter().map(|name| Bytes::copy_from_slice(name)));
                walk.stage = match last {
                    Some(last) => Stage::Next(last),
                    None => Stage::Walking { next: TubeCursor::START, end: self.machine.tubes_end() },
                };
            }
            // Whoever was asked does not lead any more.
            (SurveyRead::Page { after }, _) => {
                if let Some(walk) = self.surveys.walk.as_mut() {
                    match walk.is_void {
                        true => *walk = Walk::default(),
                        false => walk.stage = after.map_or(Stage::First, Stage::Next),
                    }
                }
            }
        }
    }

    fn shard_stats(&self, soft: &Soft) -> ShardStats {
        let counts = self.machine.counts();
        let tubes = match *soft {
            Soft::TubeCount(tubes) => tubes,
            _ => self.machine.inhabited_tubes(),
        };
        let (oldest, newest) = self.catalog.segments().map_or((0, 0), |(first, last)| (first.0, last.0));
        ShardStats {
            counts,
            tubes,
            segment_oldest: oldest.into(),
            segment_newest: newest.into(),
            entries_written: self.counters.entries_appended,
        }
    }

    /// A list that is being gathered goes on by one step; how many tubes that looked at.
    pub(super) fn take_list_step(&mut self, moment: Moment, tubes_max: usize) -> usize {
        let Some(walk) = self.surveys.walk.as_mut() else { return 0 };
        let after = match &walk.stage {
            Stage::Asked => return 0,
            Stage::First => None,
            Stage::Next(last) => Some(last.clone()),
            Stage::Walking { .. } | Stage::Ending => return self.walk_tubes(moment, tubes_max),
        };
        walk.stage = Stage::Asked;
        self.begin_survey_read(moment, SurveyRead::Page { after });
        1
    }

    fn walk_tubes(&mut self, moment: Moment, tubes_max: usize) -> usize {
        let Some(walk) = self.surveys.walk.as_mut() else { return 0 };
        let Walk { stage, bare, lines, is_void: _ } = walk;
        let mut write = |name: &[u8]| push_item(lines, name);
        if let Stage::Walking { next, end } = stage {
            let is_listed = |name: &Bytes| *name != DEFAULT_TUBE && !bare.contains(name);
            let each = |name: &Bytes| {
                if is_listed(name) {
                    write(name)
                }
            };
            let (seen, further) = self.machine.inhabited_from(*next, *end, tubes_max, each);
            match further {
                Some(further) => *next = further,
                None => *stage = Stage::Ending,
            }
            return seen;
        }
        let count = tubes_max.min(bare.len());
        for _ in 0..count {
            let name = bare.pop_first().expect("no more than there are");
            write(&name);
        }
        if bare.is_empty() {
            let tubes = Answer::Tubes(TubeLines::of_text(std::mem::take(lines)));
            for Asker { connection, ticket, .. } in std::mem::take(&mut self.surveys.list.present) {
                self.answer(connection, ticket, tubes.clone());
            }
            self.begin_list(moment);
        }
        count
    }

    /// These tubes have lost their last job.
    pub(super) fn note_emptied(&mut self, tubes: &[Bytes]) {
        let Some(walk) = self.surveys.walk.as_mut() else { return };
        // What the walk has passed is in the list already.
        let passed = match walk.stage {
            Stage::Walking { next, .. } => next,
            Stage::Ending => return,
            Stage::First | Stage::Next(_) | Stage::Asked => TubeCursor::START,
        };
        let is_ahead = |name: &&Bytes| self.machine.place_of(name).is_some_and(|place| place >= passed);
        walk.bare.extend(tubes.iter().filter(is_ahead).cloned());
    }
}
