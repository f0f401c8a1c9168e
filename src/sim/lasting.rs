//! What does not heal: a minority that stays broken behind the chaos, while the majority must serve all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use super::cluster::{Cluster, Member, PutBack, Tell};
use super::disk::{Crash, SectorOdds, SimDisk};
use super::executor::Executor;
use super::network::Network;
use super::random::Random;
use crate::types::{Nanos, NodeId};

/// What disks durably held at some times.
pub type Images = Vec<(NodeId, SimDisk)>;

/// How the nodes of a minority are broken for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lasting {
    /// Its host has no power.
    Off,
    /// It hears no other node, and no other node hears it.
    Isolated,
    /// The others hear it, and it hears none of them.
    Deaf,
    /// It hears the others, and none of them hears it.
    Mute,
    /// Its disk never answers again.
    Stalled,
    /// It is killed again and again.
    Flapping,
    /// Its disk was replaced by an empty one and prepared anew. Nobody may count on it: it forgot what it promised.
    Wiped,
    /// Its disk was put back from an image, as all others can see by what its node has told them since.
    PutBack,
    /// A part of its disk was.
    PutBackInPart,
}

impl Lasting {
    pub const ALL: &'static [Lasting] = &[
        Lasting::Off,
        Lasting::Isolated,
        Lasting::Deaf,
        Lasting::Mute,
        Lasting::Stalled,
        Lasting::Flapping,
        Lasting::Wiped,
        Lasting::PutBack,
        Lasting::PutBackInPart,
    ];

    /// What a seed draws from by itself. Images of disks are taken only in runs that are to put one back.
    pub const DRAWN: &'static [Lasting] = &[
        Lasting::Off,
        Lasting::Isolated,
        Lasting::Deaf,
        Lasting::Mute,
        Lasting::Stalled,
        Lasting::Flapping,
        Lasting::Wiped,
    ];

    #[must_use]
    pub fn puts_back(self) -> bool {
        matches!(self, Lasting::PutBack | Lasting::PutBackInPart)
    }

    /// As it is written on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Lasting::Off => "off",
            Lasting::Isolated => "isolated",
            Lasting::Deaf => "deaf",
            Lasting::Mute => "mute",
            Lasting::Stalled => "stalled",
            Lasting::Flapping => "flapping",
            Lasting::Wiped => "wiped",
            Lasting::PutBack => "put-back",
            Lasting::PutBackInPart => "put-back-in-part",
        }
    }

    /// Breaks a minority, drawn at random; which.
    pub(super) fn break_some(
        self,
        executor: &Executor,
        network: &Network,
        cluster: &Rc<Cluster>,
        random: &Random,
        images: &Images,
    ) -> BTreeSet<NodeId> {
        if self.puts_back() {
            return self.put_one_back(cluster, random, images);
        }
        let nodes = cluster.members().len();
        let count = random.between(1, (nodes - cluster.majority()) as u64);
        let first = random.below_len(nodes);
        let chosen = cluster.members().iter().cycle().skip(first).take(usize::try_from(count).expect("few"));
        let broken: BTreeSet<NodeId> = chosen.map(|member| member.node).collect();
        for &node in &broken {
            executor.tell(format_args!("node {node} is broken for good: {self}"));
            self.break_one(executor, network, cluster, random, cluster.member(node));
        }
        broken
    }

    fn break_one(
        self,
        executor: &Executor,
        network: &Network,
        cluster: &Rc<Cluster>,
        random: &Random,
        member: &Member,
    ) {
        let set_cut = |hears: bool, is_heard: bool| {
            for other in cluster.members().iter().filter(|other| other.node != member.node) {
                network.set_cut(other.host, member.host, !hears);
                network.set_cut(member.host, other.host, !is_heard);
            }
        };
        match self {
            Lasting::Off => return cluster.cut_power(member, Crash::Power(SectorOdds::OLD)),
            Lasting::Isolated => set_cut(false, false),
            Lasting::Deaf => set_cut(false, true),
            Lasting::Mute => set_cut(true, false),
            Lasting::Stalled => member.latency.set_stalled(true),
            Lasting::Flapping => flap(executor, cluster, random, member.node),
            // A node whom not all others have met has an identity that it can still lose: not a case to be survived.
            Lasting::Wiped if cluster.all_know(member) => cluster.wipe(member),
            Lasting::Wiped => {}
            Lasting::PutBack | Lasting::PutBackInPart => unreachable!("one that can be seen is looked for first"),
        }
        cluster.start(member);
    }

    /// Puts the disk of one node back, if there is an image by which all others can tell; each kind of evidence as often as
    /// any other, and not that most often which is there most often.
    fn put_one_back(self, cluster: &Rc<Cluster>, random: &Random, images: &Images) -> BTreeSet<NodeId> {
        let mut choices: BTreeMap<Option<Tell>, Vec<(NodeId, &SimDisk, PutBack)>> = BTreeMap::new();
        for (node, image) in images {
            let member = cluster.member(*node);
            if self == Lasting::PutBack {
                if let Some(tell) = cluster.tell_of(member, image) {
                    choices.entry(Some(tell)).or_default().push((*node, image, PutBack::All));
                }
            } else {
                for part in PutBack::PARTS.into_iter().filter(|part| cluster.disagrees(member, image, *part)) {
                    choices.entry(None).or_default().push((*node, image, part));
                }
            }
        }
        let kinds: Vec<_> = choices.values().collect();
        let Some((node, image, what)) = random.pick(&kinds).and_then(|kind| random.pick(kind)) else {
            return BTreeSet::new();
        };
        cluster.put_back(cluster.member(*node), image, *what);
        cluster.start(cluster.member(*node));
        BTreeSet::from([*node])
    }
}

fn flap(executor: &Executor, cluster: &Rc<Cluster>, random: &Random, node: NodeId) {
    let (again, cluster, random) = (executor.clone(), Rc::clone(cluster), random.clone());
    executor.call_in(random.nanos(Nanos::from_millis(20), Nanos::from_secs(2)), move || {
        cluster.kill(cluster.member(node));
        cluster.start(cluster.member(node));
        flap(&again, &cluster, &random, node);
    });
}

impl fmt::Display for Lasting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Lasting {
    type Err = String;

    fn from_str(text: &str) -> Result<Lasting, String> {
        Lasting::ALL.iter().find(|lasting| lasting.name() == text).copied().ok_or_else(|| {
            let names: Vec<&str> = Lasting::ALL.iter().map(|lasting| lasting.name()).collect();
            format!("nothing lasts as `{text}`; there are {}", names.join(", "))
        })
    }
}
