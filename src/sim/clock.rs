//! What one host believes the time to be: clocks that are off, drift, jump and sleep.
//!
//! Three clocks, as Linux has them: monotonic (stands still while the host is suspended; timers go by it), boot time
//! (goes on), and wall time (may jump).

use std::cell::Cell;
use std::rc::Rc;

use super::executor::Executor;
use super::random::Random;
use crate::types::Nanos;

/// Noon of an ordinary day in the year 2026, so that wall times look like wall times.
const WALL_AT_START: i128 = 1_780_000_000_000_000_000;

const MILLION: i128 = 1_000_000;

/// A host's clocks. Clones share them.
#[derive(Clone)]
pub struct Clock {
    executor: Executor,
    state: Rc<Cell<State>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// Boot time was `anchor_boot` at the true time `anchor`, and has run at `1 + drift` since.
    anchor: Nanos,
    anchor_boot: Nanos,
    drift_ppm: i32,
    /// How long the host was suspended since it booted.
    suspended: Nanos,
    /// Wall time less boot time.
    wall_ahead: i128,
}

impl Clock {
    /// A clock without faults, of a host that booted some time ago.
    #[must_use]
    pub fn new(executor: &Executor, random: &Random) -> Clock {
        let uptime = random.nanos(Nanos::from_secs(30), Nanos::from_secs(3_600));
        let wall_ahead = WALL_AT_START - i128::from(uptime.0);
        let state =
            State { anchor: executor.now(), anchor_boot: uptime, drift_ppm: 0, suspended: Nanos::ZERO, wall_ahead };
        Clock { executor: executor.clone(), state: Rc::new(Cell::new(state)) }
    }

    /// CLOCK_BOOTTIME.
    #[must_use]
    pub fn boottime(&self) -> Nanos {
        let state = self.state.get();
        let elapsed = i128::from(self.executor.now().saturating_sub(state.anchor).0);
        let local = elapsed + elapsed * i128::from(state.drift_ppm) / MILLION;
        state.anchor_boot.saturating_add(nanos(local))
    }

    /// CLOCK_MONOTONIC.
    #[must_use]
    pub fn monotonic(&self) -> Nanos {
        self.boottime().saturating_sub(self.state.get().suspended)
    }

    /// CLOCK_REALTIME.
    #[must_use]
    pub fn wall(&self) -> Nanos {
        nanos(i128::from(self.boottime().0) + self.state.get().wall_ahead)
    }

    /// How much true time passes while this clock counts `local`; never too little.
    #[must_use]
    pub fn true_duration(&self, local: Nanos) -> Nanos {
        let rate = MILLION + i128::from(self.state.get().drift_ppm);
        nanos((i128::from(local.0) * MILLION + rate - 1) / rate)
    }

    /// Runs faster (or slower, where negative) from now on, by so many millionths.
    pub fn set_drift(&self, drift_ppm: i32) {
        assert!(drift_ppm.abs() <= 500_000, "a clock that runs at half or double speed is hostile enough");
        let state = self.anchored();
        self.state.set(State { drift_ppm, ..state });
    }

    /// The wall clock is set forward, or back where negative.
    pub fn jump_wall(&self, by_ns: i64) {
        let state = self.state.get();
        self.state.set(State { wall_ahead: state.wall_ahead + i128::from(by_ns), ..state });
    }

    /// The host was suspended for the last `duration` of its own time: its monotonic clock has not counted it.
    pub fn was_suspended(&self, duration: Nanos) {
        let state = self.state.get();
        self.state.set(State { suspended: state.suspended.saturating_add(duration), ..state });
    }

    /// The host starts again: boot time begins anew, wall time goes on.
    pub fn reboot(&self) {
        let wall_ahead = i128::from(self.wall().0);
        let state = self.state.get();
        let (anchor, anchor_boot, suspended) = (self.executor.now(), Nanos::ZERO, Nanos::ZERO);
        self.state.set(State { anchor, anchor_boot, suspended, wall_ahead, ..state });
    }

    /// The same clock, told from this moment.
    fn anchored(&self) -> State {
        let anchor_boot = self.boottime();
        State { anchor: self.executor.now(), anchor_boot, ..self.state.get() }
    }
}

fn nanos(value: i128) -> Nanos {
    Nanos(u64::try_from(value.max(0)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (Executor, Clock) {
        let executor = Executor::new(1);
        let clock = Clock::new(&executor, &executor.fork_random());
        (executor, clock)
    }

    #[test]
    fn a_drifting_clock_counts_at_its_own_rate_and_never_steps_when_the_rate_changes() {
        let (executor, clock) = world();
        let begin = clock.boottime();
        clock.set_drift(100_000);
        assert_eq!(clock.boottime(), begin);
        executor.run_until(Nanos::from_secs(10));
        assert_eq!(clock.boottime().saturating_sub(begin), Nanos::from_secs(11));
        clock.set_drift(-100_000);
        executor.run_until(Nanos::from_secs(20));
        assert_eq!(clock.boottime().saturating_sub(begin), Nanos::from_secs(20));
    }

    #[test]
    fn a_true_duration_is_never_too_short() {
        let (executor, clock) = world();
        for drift in [-99_999, -7, 0, 13, 123_457] {
            clock.set_drift(drift);
            let begin = clock.boottime();
            let wait = clock.true_duration(Nanos(1_234_567));
            executor.run_until(executor.now().saturating_add(wait));
            assert!(clock.boottime().saturating_sub(begin) >= Nanos(1_234_567), "drift {drift}");
        }
    }

    #[test]
    fn a_jump_moves_only_the_wall_and_a_suspension_all_but_the_monotonic_clock() {
        let (executor, clock) = world();
        let (boot, mono, wall) = (clock.boottime(), clock.monotonic(), clock.wall());
        clock.jump_wall(-3_600_000_000_000);
        assert_eq!((clock.boottime(), clock.monotonic()), (boot, mono));
        assert_eq!(wall.saturating_sub(clock.wall()), Nanos::from_secs(3_600));
        executor.run_until(Nanos::from_secs(600));
        clock.was_suspended(Nanos::from_secs(600));
        assert_eq!(clock.boottime().saturating_sub(boot), Nanos::from_secs(600));
        assert_eq!(clock.monotonic(), mono);
    }

    #[test]
    fn a_reboot_begins_boot_time_anew_and_keeps_the_wall() {
        let (executor, clock) = world();
        executor.run_until(Nanos::from_secs(5));
        let wall = clock.wall();
        clock.reboot();
        assert_eq!(clock.boottime(), Nanos::ZERO);
        assert_eq!(clock.wall(), wall);
    }
}
