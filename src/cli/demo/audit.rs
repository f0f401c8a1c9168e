//! The audit: from what clients saw alone, whether the promises held. It believes no counter of the server's but the depth
//! of the queue at the end.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use super::Gap;
use super::history::{Event, JobName};

/// Examples that are printed of each kind of failure.
const EXAMPLES_MAX: usize = 5;

#[derive(Debug, Default)]
struct Life {
    acknowledged: bool,
    unknown_put: bool,
    deliveries: Vec<Duration>,
    /// From the reservation to the moment DELETED arrived.
    completions: Vec<(Duration, Duration)>,
    unknown_completions: u32,
}

/// What came out. Each failure is a broken promise.
#[derive(Debug, Default)]
pub struct Findings {
    acknowledged: u64,
    completed: u64,
    /// Acknowledged and delivered; the answer to the delete was lost with a connection, and the queue is empty.
    completed_unseen: u64,
    unknown_puts: u64,
    unknown_puts_taken: u64,
    delivered_again: u64,
    pause_ms: u64,
    failures: BTreeMap<&'static str, Vec<String>>,
}

/// Judges. `left`: jobs in the queue at the end, as the leader counts them, where there was one to ask.
pub fn audit(history: &[Event], gap: &Gap, left: Option<u64>) -> Findings {
    let mut findings = Findings { pause_ms: gap.pause_ms, ..Findings::default() };
    let lives = lives(history, &mut findings);
    for (job, life) in &lives {
        findings.judge(*job, life);
    }
    match left {
        Some(0) => {}
        Some(left) => findings.fail("the queue is not empty in the end", format!("{left} jobs")),
        None => findings.fail("no leader could be asked for the depth of the queue", String::new()),
    }
    if gap.errors_at_survivors > 0 {
        let how_many = format!("{} errors", gap.errors_at_survivors);
        findings.fail("clients whose node survived saw errors while the leader was replaced", how_many);
    }
    findings
}

fn lives(history: &[Event], findings: &mut Findings) -> BTreeMap<JobName, Life> {
    let mut lives: BTreeMap<JobName, Life> = BTreeMap::new();
    let mut names: HashMap<u64, JobName> = HashMap::new();
    for event in history {
        match *event {
            Event::PutAcknowledged { job, id } => {
                lives.entry(job).or_default().acknowledged = true;
                if let Some(other) = names.insert(id, job).filter(|other| *other != job) {
                    findings.fail("an id was given twice", format!("{id}: {job} and {other}"));
                }
            }
            Event::PutUnknown { job } => lives.entry(job).or_default().unknown_put = true,
            Event::Delivered { job, id, at } => {
                lives.entry(job).or_default().deliveries.push(at);
                if let Some(other) = names.insert(id, job).filter(|other| *other != job) {
                    findings.fail("an id was given twice", format!("{id}: {job} and {other}"));
                }
            }
            Event::Strange { id } => {
                findings.fail("a job that nobody put, or a changed body, was delivered", format!("id {id}"))
            }
            Event::Completed { job, since, at } => lives.entry(job).or_default().completions.push((since, at)),
            Event::CompletionUnknown { job } => lives.entry(job).or_default().unknown_completions += 1,
            Event::CompletionRefused { job } => {
                lives.entry(job).or_default();
            }
        }
    }
    lives
}

impl Findings {
    fn judge(&mut self, job: JobName, life: &Life) {
        self.acknowledged += u64::from(life.acknowledged);
        self.completed += u64::from(!life.completions.is_empty());
        self.delivered_again += u64::from(life.deliveries.len() > 1);
        if life.unknown_put {
            self.unknown_puts += 1;
            self.unknown_puts_taken += u64::from(!life.deliveries.is_empty());
        }
        if !life.acknowledged && !life.unknown_put {
            self.fail("a job was delivered that its producer never put", job.to_string());
        }
        if life.acknowledged && life.completions.is_empty() {
            match (life.deliveries.is_empty(), life.unknown_completions) {
                (true, _) => self.fail("an acknowledged job was never delivered", job.to_string()),
                (false, 0) => self.fail(
                    "an acknowledged job was delivered, never completed, and not delivered again",
                    job.to_string(),
                ),
                (false, _) => self.completed_unseen += 1,
            }
        }
        if life.completions.len() > 1 {
            self.fail("a job was completed twice", job.to_string());
        }
        for (since, done) in &life.completions {
            for at in &life.deliveries {
                if at > done {
                    self.fail("a job was delivered after its completion was acknowledged", job.to_string());
                } else if at > since {
                    self.fail("a job was delivered to a second worker while the first held it", job.to_string());
                }
            }
        }
    }

    fn fail(&mut self, promise: &'static str, example: String) {
        self.failures.entry(promise).or_default().push(example);
    }

    /// Whether every promise held.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.acknowledged > 0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.producer, self.number)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nAudit of what the clients saw")?;
        writeln!(f, "  {:>9}  jobs acknowledged to their producers", self.acknowledged)?;
        writeln!(f, "  {:>9}  jobs completed, the worker's delete acknowledged", self.completed)?;
        let unseen = "completed, the answer to the delete lost with the killed node";
        writeln!(f, "  {:>9}  {unseen}", self.completed_unseen)?;
        writeln!(
            f,
            "  {:>9}  puts whose answer was lost with the killed node; {} of these jobs were in the queue",
            self.unknown_puts, self.unknown_puts_taken
        )?;
        writeln!(f, "  {:>9}  delivered again, because their worker's node was killed", self.delivered_again)?;
        writeln!(f, "  {:>9}  ms without an acknowledged put when the leader was killed", self.pause_ms)?;
        if self.acknowledged == 0 {
            return writeln!(f, "FAILED: no job was ever acknowledged, so nothing was shown");
        }
        if self.failures.is_empty() {
            return writeln!(
                f,
                "PASSED: nothing acknowledged was lost, nothing was delivered after its completion, no job was held twice"
            );
        }
        for (promise, examples) in &self.failures {
            let shown: Vec<&str> = examples.iter().take(EXAMPLES_MAX).map(String::as_str).collect();
            writeln!(f, "FAILED: {promise}: {} times ({})", examples.len(), shown.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Gap = Gap { victim: 1, pause_ms: 40, errors_at_survivors: 0 };

    fn job(number: u32) -> JobName {
        JobName { producer: 0, number }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn put(number: u32) -> Event {
        Event::PutAcknowledged { job: job(number), id: u64::from(number) + 1 }
    }

    fn delivered(number: u32, at: u64) -> Event {
        Event::Delivered { job: job(number), id: u64::from(number) + 1, at: ms(at) }
    }

    fn completed(number: u32, since: u64, at: u64) -> Event {
        Event::Completed { job: job(number), since: ms(since), at: ms(at) }
    }

    fn failures(history: &[Event], left: Option<u64>) -> Vec<&'static str> {
        audit(history, &GAP, left).failures.into_keys().collect()
    }

    #[test]
    fn a_clean_history_passes_with_unknown_outcomes_counted_apart() {
        let history = [
            put(0),
            delivered(0, 10),
            completed(0, 10, 20),
            // The worker's node was killed while it held this one.
            put(1),
            delivered(1, 10),
            Event::CompletionUnknown { job: job(1) },
            delivered(1, 900),
            completed(1, 900, 910),
            // Never answered, and not in the queue.
            Event::PutUnknown { job: job(2) },
            // Never answered, but in the queue.
            Event::PutUnknown { job: job(3) },
            delivered(3, 30),
            completed(3, 30, 40),
            // Deleted, but the answer was lost.
            put(4),
            delivered(4, 50),
            Event::CompletionUnknown { job: job(4) },
        ];
        let findings = audit(&history, &GAP, Some(0));
        assert!(findings.passed(), "{findings}");
        assert_eq!((findings.acknowledged, findings.completed, findings.completed_unseen), (3, 3, 1));
        assert_eq!((findings.unknown_puts, findings.unknown_puts_taken, findings.delivered_again), (2, 1, 1));
    }

    #[test]
    fn each_broken_promise_is_found() {
        assert_eq!(failures(&[put(0)], Some(0)), ["an acknowledged job was never delivered"]);
        let held = "an acknowledged job was delivered, never completed, and not delivered again";
        assert_eq!(failures(&[put(0), delivered(0, 1), Event::CompletionRefused { job: job(0) }], Some(0)), [held]);
        let late = [put(0), delivered(0, 1), completed(0, 1, 2), delivered(0, 3)];
        assert_eq!(failures(&late, Some(0)), ["a job was delivered after its completion was acknowledged"]);
        let twice = [put(0), delivered(0, 1), delivered(0, 2), completed(0, 1, 3)];
        assert_eq!(failures(&twice, Some(0)), ["a job was delivered to a second worker while the first held it"]);
        let again = [put(0), delivered(0, 1), completed(0, 1, 2), completed(0, 1, 2)];
        assert_eq!(failures(&again, Some(0)), ["a job was completed twice"]);
        assert_eq!(
            failures(&[delivered(0, 1), completed(0, 1, 2)], Some(0)),
            ["a job was delivered that its producer never put"]
        );
        let strange = failures(&[Event::Strange { id: 9 }], Some(0));
        assert_eq!(strange, ["a job that nobody put, or a changed body, was delivered"]);
        let same_id = [put(0), Event::PutAcknowledged { job: job(1), id: 1 }];
        assert!(failures(&same_id, Some(0)).contains(&"an id was given twice"));
        assert_eq!(failures(&[], Some(3)), ["the queue is not empty in the end"]);
        assert_eq!(failures(&[], None), ["no leader could be asked for the depth of the queue"]);
        let noticed = Gap { errors_at_survivors: 2, ..GAP };
        assert!(!audit(&[put(0), delivered(0, 1), completed(0, 1, 2)], &noticed, Some(0)).passed());
    }

    #[test]
    fn a_demo_without_a_single_job_shows_nothing_and_fails() {
        assert!(!audit(&[], &GAP, Some(0)).passed());
    }
}
