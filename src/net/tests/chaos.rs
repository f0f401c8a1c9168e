//! A link under every trouble that the world in memory knows, in any order: what arrives is never old, never twice and
//! never out of order, and when the trouble ends the link works.

use proptest::prelude::*;

use super::links::{ADDRESS, Pair, commands, read};
use crate::types::Nanos;

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Push {
        messages: usize,
    },
    PushLong {
        bytes: usize,
    },
    Wait {
        micros: u64,
    },
    /// Both ends see the stream end.
    Cut,
    /// Only one end sees it.
    HalfCut {
        dialer: bool,
    },
    CutInside {
        after_bytes: usize,
    },
    /// Bytes stay on the way until they are released, whatever becomes of the connection.
    Hold,
    Release,
    Full(bool),
    KillListener,
    Listen,
    Nudge,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => (1usize..20).prop_map(|messages| Trouble::Push { messages }),
        1 => (1usize..200_000).prop_map(|bytes| Trouble::PushLong { bytes }),
        4 => prop_oneof![0u64..200, 0u64..20_000, 0u64..2_000_000].prop_map(|micros| Trouble::Wait { micros }),
        1 => Just(Trouble::Cut),
        1 => any::<bool>().prop_map(|dialer| Trouble::HalfCut { dialer }),
        1 => (0usize..2000).prop_map(|after_bytes| Trouble::CutInside { after_bytes }),
        1 => Just(Trouble::Hold),
        1 => Just(Trouble::Release),
        1 => any::<bool>().prop_map(Trouble::Full),
        1 => Just(Trouble::KillListener),
        1 => Just(Trouble::Listen),
        1 => Just(Trouble::Nudge),
    ]
}

/// What the events of one end must be: up and down by turns, and each message newer than the one before.
#[derive(Default)]
struct Observer {
    is_up: bool,
    newest_read: Option<u64>,
}

impl Observer {
    fn see(&mut self, line: &str) {
        if line.starts_with("incoming lost") || line.starts_with("lost") {
            // A dialler also tells how it fares while it is down.
            assert!(self.is_up || line.starts_with("lost"), "{line}, but nothing was up");
            self.is_up = false;
        } else if line.starts_with("incoming") || line.starts_with("connected") {
            assert!(!self.is_up, "{line}, but one is up");
            self.is_up = true;
        } else {
            assert!(self.is_up, "{line}, but nothing is up");
            if let Some(read) = line.strip_prefix("read ").and_then(|rest| rest.split(' ').next()) {
                let read = read.parse().expect("a number");
                assert!(self.newest_read.is_none_or(|newest| newest < read), "{line}, after {:?}", self.newest_read);
                self.newest_read = Some(read);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_link_survives_any_trouble(troubles in prop::collection::vec(trouble(), 0..60)) {
        let pair = Pair::new();
        let acceptor = pair.listen();
        let outbox = pair.dial();
        let (mut dialer_sees, mut acceptor_sees) = (Observer::default(), Observer::default());
        let mut pushed = 0;
        let newest = || pair.world.network().streams().pop();
        for trouble in troubles {
            match trouble {
                Trouble::Push { messages } => {
                    for _ in 0..messages {
                        pushed += 1;
                        let _lost = outbox.push(&read(pushed));
                    }
                }
                Trouble::PushLong { bytes } => drop(outbox.push(&commands(bytes))),
                Trouble::Wait { micros } => pair.world.run(Nanos::from_micros(micros)),
                Trouble::Cut => newest().iter().for_each(|stream| stream.cut()),
                Trouble::HalfCut { dialer: true } => newest().iter().for_each(|stream| stream.to_dialer.close()),
                Trouble::HalfCut { dialer: false } => newest().iter().for_each(|stream| stream.to_listener.close()),
                Trouble::CutInside { after_bytes } => {
                    newest().iter().for_each(|stream| stream.to_listener.break_after(after_bytes));
                }
                Trouble::Hold => newest().iter().for_each(|stream| stream.to_listener.hold()),
                Trouble::Release => {
                    pair.world.network().streams().iter().for_each(|stream| stream.to_listener.release());
                }
                Trouble::Full(full) => newest().iter().for_each(|stream| stream.to_listener.set_full(full)),
                Trouble::KillListener => pair.world.network().kill(ADDRESS),
                Trouble::Listen => pair.accept_with(&acceptor),
                Trouble::Nudge => outbox.nudge(),
            }
            pair.world.settle();
            pair.dialer.take().iter().for_each(|line| dialer_sees.see(line));
            pair.acceptor.take().iter().for_each(|line| acceptor_sees.see(line));
        }
        for stream in pair.world.network().streams() {
            stream.to_listener.release();
            stream.to_listener.set_full(false);
        }
        pair.accept_with(&acceptor);
        // A connection that was to break soon breaks now.
        newest().iter().for_each(|stream| stream.cut());
        pair.run_ms(8000);
        prop_assert!(outbox.push(&read(pushed + 1)).is_ok());
        pair.world.settle();
        pair.dialer.take().iter().for_each(|line| dialer_sees.see(line));
        pair.acceptor.take().iter().for_each(|line| acceptor_sees.see(line));
        prop_assert_eq!(acceptor_sees.newest_read, Some(pushed + 1));
        prop_assert!(dialer_sees.is_up && acceptor_sees.is_up);
    }
}
