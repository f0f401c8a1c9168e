//! How long the disk has left writes unanswered, in time in which the thread that waits for them was there
//! to hear the answer.
//!
//! It must never blame the disk for the thread: a process that was stopped, a host that slept and a thread
//! that was busy have not heard what the disk did meanwhile.

use crate::types::Nanos;

/// How often the disk is looked at while a write is under way. A look that comes after more than twice the
/// time that was asked for comes from a thread that was not there.
const LOOK_EVERY: Nanos = Nanos::from_millis(50);

/// How long the disk may take for one write.
#[derive(Debug, Clone, Copy)]
pub struct StallLimits {
    /// After this, a leader gives up leadership.
    pub step_down: Nanos,
    /// After this, the node stops.
    pub exit: Nanos,
}

/// What the disk has done so far, as one look finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Well,
    /// So slow that another node should lead.
    Slow,
    /// It has not completed a write for this long, beside which the thread was away for that long.
    Stalled {
        waited: Nanos,
        away: Nanos,
    },
}

/// The writes of one shard, of its log and its vote.
#[derive(Debug, Clone)]
pub struct WriteWatch {
    limits: StallLimits,
    under_way: u32,
    looked: Nanos,
    /// Since the last write was completed, or the first of these was begun. Both together are all the time
    /// since then, up to the last look.
    waited: Nanos,
    away: Nanos,
}

impl WriteWatch {
    #[must_use]
    pub fn new(limits: StallLimits) -> WriteWatch {
        WriteWatch { limits, under_way: 0, looked: Nanos::ZERO, waited: Nanos::ZERO, away: Nanos::ZERO }
    }

    pub fn begin(&mut self, now: Nanos) {
        if self.under_way == 0 {
            self.restart(now);
        }
        self.under_way += 1;
    }

    /// Whatever else is under way is measured from now on.
    pub fn complete(&mut self, now: Nanos) {
        self.under_way = self.under_way.checked_sub(1).expect("a write that completes was begun");
        self.restart(now);
    }

    fn restart(&mut self, now: Nanos) {
        (self.looked, self.waited, self.away) = (now, Nanos::ZERO, Nanos::ZERO);
    }

    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.under_way > 0
    }

    /// For how long the disk has owed an answer, as of the last look.
    #[must_use]
    pub fn waited(&self) -> Option<Nanos> {
        self.is_writing().then_some(self.waited)
    }

    /// When to look next, if a write is still under way then.
    #[must_use]
    pub fn pause(&self) -> Nanos {
        let limits = [self.limits.step_down, self.limits.exit];
        let ahead = limits.iter().map(|limit| limit.saturating_sub(self.waited)).filter(|left| *left > Nanos::ZERO);
        ahead.min().map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))
    }

    /// The thread slept for `pause`, and looks again: a completion of before now has been heard, unless the
    /// look is late. Then it may still wait behind whatever made it late, so a late look judges nothing.
    pub fn look(&mut self, now: Nanos, pause: Nanos) -> Verdict {
        if !self.is_writing() {
            return Verdict::Well;
        }
        let passed = now.saturating_sub(self.looked);
        let is_late = passed > Nanos(2 * pause.0);
        let there = if is_late { pause } else { passed };
        self.looked = now;
        self.waited = self.waited.saturating_add(there);
        self.away = self.away.saturating_add(passed.saturating_sub(there));
        match self.waited {
            _ if is_late => Verdict::Well,
            waited if waited >= self.limits.exit => Verdict::Stalled { waited, away: self.away },
            waited if waited >= self.limits.step_down => Verdict::Slow,
            _ => Verdict::Well,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StallLimits = StallLimits { step_down: Nanos::from_millis(300), exit: Nanos::from_secs(20) };

    fn milliseconds(ms: u64) -> Nanos {
        Nanos::from_millis(ms)
    }

    /// Looks until one finds something else than the last, each so much later than it should be.
    fn next_change(watch: &mut WriteWatch, now: &mut Nanos, late: Nanos) -> Verdict {
        let before = watch.look(*now, LOOK_EVERY);
        for _ in 0..10_000 {
            let pause = watch.pause();
            *now = now.saturating_add(pause).saturating_add(late);
            let verdict = watch.look(*now, pause);
            if verdict != before {
                return verdict;
            }
        }
        before
    }

    #[test]
    fn e12_a_disk_that_hangs_is_found_out_at_each_limit_by_a_thread_that_is_there() {
        let (mut watch, mut now) = (WriteWatch::new(LIMITS), milliseconds(5_000));
        watch.begin(now);
        assert_eq!(next_change(&mut watch, &mut now, Nanos::ZERO), Verdict::Slow);
        assert_eq!(now, milliseconds(5_300));
        let stalled = Verdict::Stalled { waited: LIMITS.exit, away: Nanos::ZERO };
        assert_eq!(next_change(&mut watch, &mut now, Nanos::ZERO), stalled);
        assert_eq!(now, milliseconds(25_000));
    }

    #[test]
    fn a5_a_thread_that_is_never_there_finds_nothing_out_about_its_disk() {
        for late in [milliseconds(60), milliseconds(400), milliseconds(5_000)] {
            let (mut watch, mut now) = (WriteWatch::new(LIMITS), Nanos::ZERO);
            watch.begin(now);
            assert_eq!(next_change(&mut watch, &mut now, late), Verdict::Well, "late by {late:?}");
            assert!(now > LIMITS.exit);
        }
    }

    /// Busy for 31 s while its write was completed, as a node of 100,000 tubes was.
    #[test]
    fn a5_time_away_is_told_apart_from_time_in_which_the_disk_was_silent() {
        let (mut watch, mut now) = (WriteWatch::new(LIMITS), Nanos::ZERO);
        watch.begin(now);
        now = milliseconds(31_332);
        assert_eq!(watch.look(now, LOOK_EVERY), Verdict::Well);
        assert_eq!(watch.waited(), Some(LOOK_EVERY));
        // It was not completed, and the thread is there from now on.
        assert_eq!(next_change(&mut watch, &mut now, Nanos::ZERO), Verdict::Slow);
        assert_eq!(now, milliseconds(31_332 + 250));
        let Verdict::Stalled { waited, away } = next_change(&mut watch, &mut now, Nanos::ZERO) else { panic!() };
        assert_eq!((waited, away), (LIMITS.exit, milliseconds(31_332 - 50)));
    }

    #[test]
    fn each_write_that_completes_starts_the_time_anew() {
        let (mut watch, mut now) = (WriteWatch::new(LIMITS), Nanos::ZERO);
        watch.begin(now);
        watch.begin(now);
        now = milliseconds(90);
        assert_eq!(watch.look(now, LOOK_EVERY), Verdict::Well);
        watch.complete(now);
        assert_eq!((watch.waited(), watch.is_writing()), (Some(Nanos::ZERO), true));
        watch.complete(now);
        assert_eq!((watch.waited(), watch.is_writing()), (None, false));
        assert_eq!(watch.look(milliseconds(90_000), LOOK_EVERY), Verdict::Well);
    }

    /// Timers of the real world are up to two milliseconds late.
    #[test]
    fn a_look_that_is_a_little_late_counts_in_full() {
        let (mut watch, mut now) = (WriteWatch::new(LIMITS), Nanos::ZERO);
        watch.begin(now);
        assert_eq!(next_change(&mut watch, &mut now, milliseconds(2)), Verdict::Slow);
        assert!(now <= milliseconds(310), "{now:?}");
    }
}
