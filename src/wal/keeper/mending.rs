//! Files that are found damaged while the node runs, made whole: rows from the records that they are about; a file whose records
//! are damaged by moving what lives out of it, with copies of other nodes in the place of what cannot be read.
//!
//! It must never give up a damaged file before every job that lives in it stands elsewhere, whole.

use bytes::Bytes;

use super::*;
use crate::wal::salvage::{Fault, Salvaged, salvage_segment, salvage_store};

/// What became of a file that was said to be damaged.
#[derive(Debug)]
pub enum Mended {
    /// It is whole; or given up already.
    Whole,
    /// It has new rows, under its name.
    Rows(Piece),
    /// What lives was moved out of it; see [`Keeper::finish`].
    Moved(Change),
    /// These jobs live in it and cannot be read here. It stays as it is until there are copies.
    Lacking { jobs: Vec<JobId>, why: String },
}

/// A job as another node has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCopy {
    pub job: JobId,
    /// Of the entry that it came with, and that entry's wall time.
    pub index: Index,
    pub wall: Nanos,
    /// As its entry held it.
    pub enqueue: Bytes,
}

/// A job's ENQ, whole, wherever it was found.
pub(super) struct Enqueue {
    pub index: Index,
    pub wall: Nanos,
    pub bytes: Bytes,
}

impl<D: Disk> Keeper<D> {
    /// Files that were found damaged since this was last asked.
    pub fn take_found_damaged(&mut self) -> Vec<PieceName> {
        std::mem::take(&mut self.found_damaged)
    }

    /// Other nodes' copies of jobs that are lacking here; the files that may be mended with them.
    pub fn take_copies(&mut self, copies: Vec<JobCopy>) -> Vec<PieceName> {
        for copy in copies {
            if self.lacking.values().any(|jobs| jobs.binary_search(&copy.job).is_ok()) {
                self.copies.insert(copy.job, copy);
            }
        }
        let is_complete = |jobs: &Vec<JobId>| !jobs.iter().any(|job| self.lacks(*job));
        self.lacking.iter().filter(|(_, jobs)| is_complete(jobs)).map(|(name, _)| *name).collect()
    }

    fn lacks(&self, job: JobId) -> bool {
        self.live.contains(job.0) && !self.copies.contains_key(&job)
    }

    /// Jobs of which copies are looked for, the first so many.
    #[must_use]
    pub fn next_lacking(&self, count_max: usize) -> Vec<JobId> {
        self.lacking.values().flatten().copied().filter(|job| self.lacks(*job)).take(count_max).collect()
    }

    /// Reads all of a file, and makes whole what is not.
    ///
    /// # Errors
    /// If the disk is full or fails; or the file is still part of the log, where only a start repairs entries.
    pub async fn mend(&mut self, name: PieceName) -> Result<Mended, KeepError> {
        let Some(kept) = self.pieces.get(&name) else { return Ok(Mended::Whole) };
        let footer = Rc::clone(&kept.footer);
        let mended = match name {
            PieceName::Log(number) => self.mend_segment(number, &footer).await,
            PieceName::Store(number) => self.mend_store(number, &footer).await,
        };
        let (is_damaged, is_mended) = match &mended {
            Ok(Mended::Whole) => (false, false),
            Ok(Mended::Rows(_) | Mended::Moved(_)) => (false, true),
            Ok(Mended::Lacking { .. }) | Err(_) => (true, false),
        };
        self.mended += u64::from(is_mended);
        if let Some(kept) = self.pieces.get_mut(&name) {
            kept.is_damaged = is_damaged;
        }
        match &mended {
            Ok(Mended::Lacking { jobs, .. }) => drop(self.lacking.insert(name, jobs.clone())),
            _ => self.forget_lacking(name),
        }
        mended
    }

    fn forget_lacking(&mut self, name: PieceName) {
        if let Some(jobs) = self.lacking.remove(&name) {
            jobs.iter().for_each(|job| drop(self.copies.remove(job)));
        }
    }

    async fn mend_segment(&mut self, number: SegmentNumber, footer: &Rc<Footer>) -> Result<Mended, KeepError> {
        let name = PieceName::Log(number);
        let path = self.path(name);
        let last = footer.subject().last;
        let is_below = last <= self.manifest.floor.position.index;
        let salvaged = match self.header(number).await {
            Ok((header, _)) => {
                let file = self.disk.open(&path, OpenMode::Read).await.map_err(not_read("open", &path))?;
                Some(salvage_segment(file, header, self.place.identity, last).await)
            }
            Err(error) if !is_below => return Err(error),
            Err(_) => None,
        };
        match salvaged {
            Some(Salvaged { subject, rows, fault: None }) => {
                let content = rows.finish(&subject, &self.place.identity);
                if footer.verify().is_ok() && self.holds(&self.rows_path(number), &content).await {
                    return Ok(Mended::Whole);
                }
                let footer = self.make_rows(&subject, &rows).await?;
                if let Some(kept) = self.pieces.get_mut(&name) {
                    kept.footer = Rc::clone(&footer);
                }
                Ok(Mended::Rows(Piece { name, footer }))
            }
            Some(Salvaged { fault: Some(Fault { offset, index }), .. }) if !is_below => {
                Err(KeepError::Segment { path, offset, index })
            }
            salvaged => self.move_out(name, footer, salvaged).await,
        }
    }

    async fn mend_store(&mut self, number: SegmentNumber, footer: &Rc<Footer>) -> Result<Mended, KeepError> {
        let name = PieceName::Store(number);
        let path = self.path(name);
        let salvaged = match self.disk.open(&path, OpenMode::Read).await {
            Ok(file) => {
                let salvaged = salvage_store(&file, number, &self.place.identity).await;
                if let Some((header, Salvaged { subject, rows, fault: None })) = &salvaged {
                    let rows = rows.finish(subject, &self.place.identity);
                    if footer.verify().is_ok() && holds_from(&file, header.rows_at, &rows).await {
                        return Ok(Mended::Whole);
                    }
                }
                salvaged.map(|(_, salvaged)| salvaged)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(not_read("open", &path)(error)),
        };
        self.move_out(name, footer, salvaged).await
    }

    /// Whether a file is these bytes, by direct reads.
    async fn holds(&self, path: &Path, content: &[u8]) -> bool {
        match self.disk.open(path, OpenMode::Read).await {
            Ok(file) => file.bytes() == content.len() as u64 && holds_from(&file, 0, content).await,
            Err(_) => false,
        }
    }

    /// Moves what lives in a damaged file below the floor into new ones.
    async fn move_out(
        &mut self,
        name: PieceName,
        footer: &Rc<Footer>,
        salvaged: Option<Salvaged>,
    ) -> Result<Mended, KeepError> {
        let path = self.path(name);
        if !self.knows_what_lives {
            return Err(KeepError::Unknown { path });
        }
        let offset = salvaged.as_ref().and_then(|salvaged| salvaged.fault).map_or(0, |fault| fault.offset);
        // Rows that were made of what is whole say more than those that are damaged, and as much as those that are not.
        let made = salvaged.map(|Salvaged { subject, rows, .. }| rows.finish(&subject, &self.place.identity));
        let made = made.and_then(|rows| Footer::open(rows.into(), &self.place.identity).ok());
        let rows = made.map_or_else(|| Rc::clone(footer), Rc::new);
        let jobs = self.lacking_in(name, footer, &rows).await;
        if !jobs.is_empty() {
            let why = format!("{}, offset {offset}: records are damaged", path.display());
            return Ok(Mended::Lacking { jobs, why });
        }
        let change = self.replace_by_new(&[name], &[(Rc::clone(footer), rows)]).await?;
        Ok(Mended::Moved(change))
    }

    /// The jobs that live in a file and are whole neither there nor among the copies.
    async fn lacking_in(&self, name: PieceName, footer: &Footer, rows: &Footer) -> Vec<JobId> {
        let mut lacking = Vec::new();
        let (mut copied, mut next) = (LastEntry::default(), footer.first_job());
        loop {
            let jobs = self.live_jobs(footer, next);
            let Some(&last) = jobs.last() else { return lacking };
            for &job in &jobs {
                if self.find_enqueue(name, rows, job, &mut copied).await.is_err() {
                    lacking.push(job);
                }
            }
            next = JobId(last.0 + 1);
            yield_now().await;
        }
    }

    /// A job's ENQ from its file, or a copy.
    pub(super) async fn find_enqueue(
        &self,
        name: PieceName,
        rows: &Footer,
        job: JobId,
        copied: &mut LastEntry,
    ) -> Result<Enqueue, ReadError> {
        let own = match self.read_enqueue(name, rows, job, copied).await {
            Ok((row, bytes)) => return Ok(Enqueue { index: row.index, wall: row.wall, bytes }),
            Err(error) => error,
        };
        let Subject { base, last, .. } = self.pieces[&name].footer.subject();
        let is_it = |copy: &&JobCopy| base < copy.index && copy.index <= last && whole_enqueue(&copy.enqueue).is_some();
        let copy = self.copies.get(&job).filter(is_it);
        copy.map(|copy| Enqueue { index: copy.index, wall: copy.wall, bytes: copy.enqueue.clone() }).ok_or(own)
    }
}

/// Whether these bytes stand in a file from an offset on.
async fn holds_from<F: File>(file: &F, offset: u64, content: &[u8]) -> bool {
    let mut at = offset;
    for part in content.chunks(1 << 17) {
        match file.read_at(AlignedBuf::zeroed(part.len()), at).await {
            (Ok(()), read) if read.get(..part.len()) == Some(part) => at += part.len() as u64,
            _ => return false,
        }
    }
    true
}
