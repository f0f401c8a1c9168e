//! Pauses: a tube that is paused serves no RESERVE, and does everything else.

use super::command::Outcome;
use super::machine::Machine;
use super::tube::{Pause, TubeId};
use crate::types::Nanos;

impl Machine {
    /// Pauses a tube for so long from now, whatever pause it had; for 0 seconds: ends its pause.
    pub(super) fn pause(&mut self, name: &[u8], duration_s: u32, referenced: bool) -> Outcome {
        let tube = match self.tubes.named_mut(name) {
            Some(tube) => tube,
            None if referenced => self.tubes.named_or_created(name, &mut self.news),
            None => return Outcome::NotFound,
        };
        tube.pauses += 1;
        let id = tube.id;
        if duration_s == 0 {
            self.end_pause(id);
            return Outcome::Paused;
        }
        let until = self.times.wall.saturating_add(Nanos::from_secs(duration_s.into()));
        if let Some(before) = tube.pause.replace(Pause { until, duration_s }) {
            assert!(self.pauses.remove(&(before.until, id)), "a pause has a due time");
        }
        self.pauses.insert((until, id));
        Outcome::Paused
    }

    /// Lets a tube serve again.
    pub(super) fn end_pause(&mut self, id: TubeId) {
        let Some(pause) = self.tubes.existing_mut(id).pause.take() else { return };
        assert!(self.pauses.remove(&(pause.until, id)), "a pause has a due time");
        self.news.made_ready(id);
    }

    /// Forgets a tube that has no jobs, and with it its pause.
    pub(super) fn drop_tube(&mut self, name: &[u8]) {
        let Some(tube) = self.tubes.drop_if_empty(name) else { return };
        self.news.dropped(tube.id);
        if let Some(pause) = tube.pause {
            assert!(self.pauses.remove(&(pause.until, tube.id)), "a pause has a due time");
        }
    }
}
