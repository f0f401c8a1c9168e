//! Drives a `Machine` one entry at a time, as a leader and its clients would, and checks every invariant behind
//! each entry.

use beaver_raft::job::codec::{Commands, body_hash, encode, encode_tubes};
use beaver_raft::job::command::{Applied, Batch, Class, Command, Numbered, Origin, Outcome, TubeList};
use beaver_raft::job::view::{JobState, JobView, TubeCounts};
use beaver_raft::job::{ApplyError, Enqueued, Machine};
use beaver_raft::types::{BootEpoch, Index, JobId, Nanos, NodeId, SessionId, Term, Times};

/// The wall time of the first entry, far from the lease time, so that a mix-up of the two clocks shows.
pub const WALL_AT_START: Nanos = Nanos::from_secs(1_700_000_000);

pub struct Driver {
    pub machine: Machine,
    pub now: Times,
    /// The class of each job put so far, in order of ids from 1; what the log's rows know.
    pub classes: Vec<OwnedClass>,
    index: Index,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedClass {
    pub tube: Vec<u8>,
    pub priority: u32,
    pub ttr_s: u32,
    pub delay_s: u32,
    pub wall: Nanos,
}

impl OwnedClass {
    pub fn class(&self) -> Class<'_> {
        Class { tube: &self.tube, priority: self.priority, ttr_s: self.ttr_s, delay_s: self.delay_s }
    }
}

/// A client connection: numbers its commands.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub session: SessionId,
    pub next_seq: u64,
}

pub fn session(node: u8, boot: u64, number: u64) -> SessionId {
    SessionId { node: NodeId(node), boot: BootEpoch(boot), number }
}

pub fn class(tube: &str, priority: u32) -> Class<'_> {
    Class { tube: tube.as_bytes(), priority, ttr_s: 60, delay_s: 0 }
}

impl Driver {
    pub fn new() -> Driver {
        let now = Times { lease: Nanos::from_secs(5), wall: WALL_AT_START };
        Driver { machine: Machine::new(), now, classes: Vec::new(), index: Index::ZERO }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now.lease = self.now.lease.saturating_add(Nanos::from_secs(seconds));
        self.now.wall = self.now.wall.saturating_add(Nanos::from_secs(seconds));
    }

    /// Applies one entry of these commands.
    pub fn entry(&mut self, commands: &[Numbered<'_>]) -> Vec<Applied> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| encode(command, &mut bytes));
        self.raw_entry(&bytes).expect("these commands apply")
    }

    pub fn raw_entry(&mut self, commands: &[u8]) -> Result<Vec<Applied>, ApplyError> {
        self.index = self.index.next();
        let first_job = JobId(self.classes.len() as u64 + 1);
        for located in Commands::new(commands).filter_map(Result::ok) {
            if let Command::Enqueue { class, .. } = located.numbered.command {
                let Class { tube, priority, ttr_s, delay_s } = class;
                self.classes.push(OwnedClass { tube: tube.to_vec(), priority, ttr_s, delay_s, wall: self.now.wall });
            }
        }
        let mut out = Vec::new();
        let batch = Batch { index: self.index, term: Term(1), times: self.now, first_job, commands };
        self.machine.apply(batch, &mut out)?;
        self.machine.verify();
        Ok(out)
    }

    /// An entry of the leader's own; nobody is answered.
    pub fn system(&mut self, command: Command<'_>) {
        assert_eq!(self.entry(&[Numbered { origin: Origin::System, command }]), []);
    }

    pub fn tick(&mut self) {
        self.system(Command::Tick);
    }

    pub fn open(&mut self, session: SessionId) -> Client {
        let origin = Origin::Session { session, seq: 0 };
        let applied = self.entry(&[Numbered { origin, command: Command::SessionOpen }]);
        assert_eq!(applied, [Applied { session, seq: 0, outcome: Outcome::Opened }]);
        Client { session, next_seq: 1 }
    }

    /// The outcome of a client's next command.
    pub fn run(&mut self, client: &mut Client, command: Command<'_>) -> Outcome {
        let (session, seq) = (client.session, client.next_seq);
        let applied = self.entry(&[Numbered { origin: Origin::Session { session, seq }, command }]);
        assert_eq!(applied.len(), 1, "a next command has an outcome");
        assert_eq!((applied[0].session, applied[0].seq), (session, seq));
        if applied[0].outcome != Outcome::NothingReady {
            client.next_seq += 1;
        }
        applied[0].outcome
    }

    pub fn put(&mut self, client: &mut Client, class: Class<'_>) -> u64 {
        match self.run(client, Command::Enqueue { class, body_hash: body_hash(b"body"), body: b"body" }) {
            Outcome::Enqueued { job } => job.0,
            other => panic!("a put came to {other:?}"),
        }
    }

    /// The id of the job reserved, if one was ready.
    pub fn reserve(&mut self, client: &mut Client, tubes: &[&str]) -> Option<u64> {
        let encoded = encode_tubes(tubes.iter().map(|name| name.as_bytes()));
        match self.run(client, Command::Reserve { tubes: TubeList { encoded: &encoded } }) {
            Outcome::Reserved { job, .. } => Some(job.0),
            Outcome::NothingReady => None,
            other => panic!("a reserve came to {other:?}"),
        }
    }

    /// The ids that reserving until nothing is ready gives.
    pub fn reserve_all(&mut self, client: &mut Client, tubes: &[&str]) -> Vec<u64> {
        std::iter::from_fn(|| self.reserve(client, tubes)).collect()
    }

    pub fn reserve_job(&mut self, client: &mut Client, job: u64) -> Outcome {
        let hint = self.hint(job);
        self.run(client, Command::ReserveJob { job: JobId(job), class: hint.as_ref().map(OwnedClass::class) })
    }

    pub fn delete(&mut self, client: &mut Client, job: u64) -> Outcome {
        let hint = self.hint(job);
        self.run(client, Command::Delete { job: JobId(job), class: hint.as_ref().map(OwnedClass::class) })
    }

    pub fn release(&mut self, client: &mut Client, job: u64, priority: u32, delay_s: u32) -> Outcome {
        self.run(client, Command::Release { job: JobId(job), priority, delay_s })
    }

    pub fn bury(&mut self, client: &mut Client, job: u64, priority: u32) -> Outcome {
        self.run(client, Command::Bury { job: JobId(job), priority })
    }

    pub fn touch(&mut self, client: &mut Client, job: u64) -> Outcome {
        self.run(client, Command::Touch { job: JobId(job) })
    }

    pub fn kick(&mut self, client: &mut Client, tube: &str, bound: u64) -> u64 {
        match self.run(client, Command::Kick { tube: tube.as_bytes(), bound }) {
            Outcome::Kicked { count } => count,
            other => panic!("a kick came to {other:?}"),
        }
    }

    pub fn kick_job(&mut self, client: &mut Client, job: u64) -> Outcome {
        self.run(client, Command::KickJob { job: JobId(job) })
    }

    pub fn pause(&mut self, client: &mut Client, tube: &str, duration_s: u32, referenced: bool) -> Outcome {
        self.run(client, Command::Pause { tube: tube.as_bytes(), duration_s, referenced })
    }

    /// What the log's rows say of a job.
    pub fn hint(&self, job: u64) -> Option<OwnedClass> {
        self.classes.get(usize::try_from(job).expect("small").checked_sub(1)?).cloned()
    }

    pub fn view(&self, job: u64) -> Option<JobView> {
        let hint = self.hint(job)?;
        self.machine.job_view(JobId(job), &Enqueued { class: hint.class(), wall: hint.wall }, self.now)
    }

    pub fn state(&self, job: u64) -> Option<JobState> {
        self.view(job).map(|view| view.state)
    }

    pub fn tube(&self, tube: &str) -> TubeCounts {
        self.machine.tube_counts(tube.as_bytes(), self.now).expect("the tube has a record")
    }
}
