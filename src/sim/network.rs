//! Hosts, the links between them, and what can go wrong there. What TCP makes of it is in `stream`.
//!
//! A link is directed: each way has its own delay, loss and cut. Loss never shows as a missing byte inside a stream, only
//! as delay, because TCP sends again; what breaks a stream is a reset, a vanished host, or silence for too long.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::executor::{Executor, GroupId};
use super::random::Random;
use super::stream::{Stream, StreamId};
use super::wire::Backlog;
use crate::types::Nanos;

/// A simulated machine, or one of its clients' machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(super) u16);

/// One direction between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    pub delay_min: Nanos,
    pub delay_max: Nanos,
    /// How many of a million packets are lost, and come late by a retransmission.
    pub loss_ppm: u32,
    /// How many of a million packets take up to ten times as long.
    pub late_ppm: u32,
    /// Nothing passes.
    pub is_cut: bool,
}

impl Default for Link {
    fn default() -> Link {
        let (delay_min, delay_max) = (Nanos::from_micros(40), Nanos::from_micros(120));
        Link { delay_min, delay_max, loss_ppm: 0, late_ppm: 0, is_cut: false }
    }
}

/// What happened to the streams of a run; a run without any of it has tested little.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    pub connected: u64,
    pub refused: u64,
    pub connects_timed_out: u64,
    pub packets_lost: u64,
    pub retransmissions: u64,
    pub resets: u64,
    pub timed_out: u64,
    /// Streams cut with bytes under way, so perhaps inside a frame.
    pub cut_with_bytes: u64,
    /// A writer had to wait because its reader did not read.
    pub back_pressure: u64,
}

/// Clones share one network.
#[derive(Clone)]
pub struct Network(pub(super) Rc<State>);

pub(super) struct State {
    pub(super) executor: Executor,
    pub(super) random: Random,
    hosts: RefCell<Vec<Host>>,
    links: RefCell<BTreeMap<(HostId, HostId), Link>>,
    pub(super) listeners: RefCell<BTreeMap<(HostId, String), Rc<Backlog>>>,
    pub(super) streams: RefCell<BTreeMap<StreamId, Stream>>,
    pub(super) stream_last: Cell<u64>,
    pub(super) port_last: Cell<u16>,
    pub(super) counts: Cell<NetworkCounts>,
}

struct Host {
    name: String,
    has_power: bool,
    /// Suspended: it holds its streams, and hears nothing.
    is_frozen: bool,
}

impl Network {
    #[must_use]
    pub fn new(executor: &Executor) -> Network {
        Network(Rc::new(State {
            executor: executor.clone(),
            random: executor.fork_random(),
            hosts: RefCell::default(),
            links: RefCell::default(),
            listeners: RefCell::default(),
            streams: RefCell::default(),
            stream_last: Cell::new(0),
            port_last: Cell::new(40_000),
            counts: Cell::default(),
        }))
    }

    #[must_use]
    pub fn counts(&self) -> NetworkCounts {
        self.0.counts.get()
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut NetworkCounts)) {
        let mut counts = self.0.counts.get();
        add(&mut counts);
        self.0.counts.set(counts);
    }

    // Hosts.

    /// A host that others reach by this name.
    #[must_use]
    pub fn add_host(&self, name: &str) -> HostId {
        assert!(self.host_named(name).is_none(), "host names are unique");
        let mut hosts = self.0.hosts.borrow_mut();
        let id = HostId(u16::try_from(hosts.len()).expect("a simulated cluster is small"));
        hosts.push(Host { name: name.to_owned(), has_power: true, is_frozen: false });
        id
    }

    #[must_use]
    pub fn host_named(&self, name: &str) -> Option<HostId> {
        let place = self.0.hosts.borrow().iter().position(|host| host.name == name)?;
        u16::try_from(place).ok().map(HostId)
    }

    #[must_use]
    pub fn host_name(&self, host: HostId) -> String {
        self.0.hosts.borrow()[usize::from(host.0)].name.clone()
    }

    /// The host vanishes without a word: its streams are gone, and nobody is told.
    pub fn power_off(&self, host: HostId) {
        self.0.hosts.borrow_mut()[usize::from(host.0)].has_power = false;
        self.0.listeners.borrow_mut().retain(|(at, _), _| *at != host);
        self.vanish(host);
    }

    pub fn power_on(&self, host: HostId) {
        self.0.hosts.borrow_mut()[usize::from(host.0)].has_power = true;
    }

    /// A suspended host neither hears nor answers, and keeps its streams.
    pub fn set_frozen(&self, host: HostId, is_frozen: bool) {
        self.0.hosts.borrow_mut()[usize::from(host.0)].is_frozen = is_frozen;
    }

    /// A process was killed: the kernel closes what it had open.
    pub fn close_all_of(&self, process: GroupId) {
        let listeners = std::mem::take(&mut *self.0.listeners.borrow_mut());
        let (theirs, others) = listeners.into_iter().partition(|(_, backlog)| backlog.owner() == process);
        *self.0.listeners.borrow_mut() = others;
        // Dropped here, where nothing is borrowed: a backlog closes the streams that it holds.
        let theirs: BTreeMap<(HostId, String), Rc<Backlog>> = theirs;
        theirs.values().for_each(|backlog| backlog.close());
        self.close_streams_of(process);
    }

    // Links.

    #[must_use]
    pub fn link(&self, from: HostId, to: HostId) -> Link {
        let links = self.0.links.borrow();
        links.get(&(from, to)).copied().unwrap_or_else(|| match from == to {
            true => Link { delay_min: Nanos::from_micros(5), delay_max: Nanos::from_micros(15), ..Link::default() },
            false => Link::default(),
        })
    }

    pub fn set_link(&self, from: HostId, to: HostId, link: Link) {
        assert!(link.delay_min <= link.delay_max, "a range of delays runs upwards");
        self.0.links.borrow_mut().insert((from, to), link);
    }

    /// Cuts one direction, or mends it.
    pub fn set_cut(&self, from: HostId, to: HostId, is_cut: bool) {
        let link = self.link(from, to);
        if link.is_cut != is_cut {
            let verb = if is_cut { "cut" } else { "mended" };
            self.tell(format_args!("link {} -> {} {verb}", self.host_name(from), self.host_name(to)));
            self.set_link(from, to, Link { is_cut, ..link });
        }
    }

    /// Cuts both directions between two hosts, or mends them.
    pub fn set_cut_both(&self, a: HostId, b: HostId, is_cut: bool) {
        self.set_cut(a, b, is_cut);
        self.set_cut(b, a, is_cut);
    }

    /// Mends every cut.
    pub fn heal(&self) {
        let cut: Vec<(HostId, HostId)> =
            self.0.links.borrow().iter().filter(|(_, link)| link.is_cut).map(|(ends, _)| *ends).collect();
        for (from, to) in cut {
            self.set_cut(from, to, false);
        }
    }

    /// Whether a packet that arrives now arrives. Draws the loss.
    pub(super) fn passes(&self, from: HostId, to: HostId) -> bool {
        let hosts = self.0.hosts.borrow();
        let works = |host: HostId| hosts[usize::from(host.0)].has_power && !hosts[usize::from(host.0)].is_frozen;
        let link = self.link(from, to);
        if !works(from) || !works(to) || link.is_cut {
            return false;
        }
        if self.0.random.chance(link.loss_ppm) {
            self.count(|counts| counts.packets_lost += 1);
            return false;
        }
        true
    }

    pub(super) fn draw_delay(&self, from: HostId, to: HostId) -> Nanos {
        let link = self.link(from, to);
        let delay = self.0.random.nanos(link.delay_min, link.delay_max);
        match self.0.random.chance(link.late_ppm) {
            true => Nanos(delay.0.saturating_mul(self.0.random.between(2, 10))),
            false => delay,
        }
    }

    pub(super) fn tell(&self, what: impl fmt::Display) {
        self.0.executor.tell(what);
    }
}
