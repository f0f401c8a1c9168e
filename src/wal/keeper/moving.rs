//! Moves the jobs that live out of files in which few do, into store segments, and removes what is given up.
//!
//! It must never remove a file before every job that lives in it stands elsewhere, durable and named by the manifest.

use super::*;
use crate::wal::reader::ReadFailure;

impl<D: Disk> Keeper<D> {
    /// Moves the jobs that live out of files in which few do, a bounded number of files at a time. None where there is nothing
    /// to gain.
    ///
    /// # Errors
    /// If the disk is full or fails, or what lives cannot be read; then those files are left alone from now on.
    pub async fn compact(&mut self) -> Result<Option<Change>, KeepError> {
        let holdings = self.holdings();
        let Some(run) = plan(&holdings, &self.place.bounds) else { return Ok(None) };
        let removed: Vec<PieceName> = holdings[run].iter().map(|holding| holding.name).collect();
        let rows: Vec<_> = removed.iter().map(|name| Rc::clone(&self.pieces[name].footer)).collect();
        let rows: Vec<_> = rows.iter().map(|footer| (Rc::clone(footer), Rc::clone(footer))).collect();
        self.replace_by_new(&removed, &rows).await.map(Some)
    }

    /// All of them or none: one that counts while another is missing would hold jobs twice.
    async fn map_stores(&self, numbers: &[SegmentNumber]) -> Result<Vec<Kept>, KeepError> {
        let mut mapped = Vec::new();
        for &number in numbers {
            mapped.push(self.map_store(number).await?);
        }
        Ok(mapped)
    }

    /// Moves what lives in these files, which are neighbours, into new ones. `rows`: of each, those that say which jobs may be in it,
    /// and those that say where they are.
    pub(super) async fn replace_by_new(
        &mut self,
        removed: &[PieceName],
        rows: &[(Rc<Footer>, Rc<Footer>)],
    ) -> Result<Change, KeepError> {
        let mut made = Vec::new();
        let mapped = match self.rewrite(removed, rows, &mut made).await {
            Ok(()) => self.map_stores(&made).await,
            Err(error) => Err(error),
        };
        if mapped.is_err() {
            for &number in &made {
                // The next start removes what cannot be removed now.
                let _ = self.unlink(&self.path(PieceName::Store(number))).await;
            }
        }
        let mut added = Vec::new();
        for (number, mut kept) in made.into_iter().zip(mapped?) {
            kept.live = Some((kept.footer.jobs() as u64, kept.footer.enqueue_bytes()));
            self.moved_bytes += kept.file_bytes;
            let name = PieceName::Store(number);
            added.push(Piece { name, footer: Rc::clone(&kept.footer) });
            self.pieces.insert(name, kept);
        }
        let stays = |name: &PieceName, kept: &Kept| self.is_below_floor(*name, kept) && !removed.contains(name);
        let kept = self.pieces.iter().filter(|(name, kept)| stays(name, kept));
        let kept = kept.map(|(name, kept)| (*name, kept.footer.subject().last)).collect();
        let saved = self.save(self.manifest.clone(), kept, removed).await;
        if saved.is_err() {
            // The old ones stay in use.
            for piece in &added {
                self.pieces.remove(&piece.name);
            }
            self.remove_unnamed(&added).await;
        }
        saved?;
        self.rewritten_files += removed.len() as u64;
        Ok(Change { floor: None, removed: removed.to_vec(), added })
    }

    /// Removes files that the manifest does not name. Where it does, or cannot be read, nobody knows whether it is durable, and they stay. On a
    /// full disk, where it finds no room for its change, each attempt would leave some more.
    async fn remove_unnamed(&self, made: &[Piece]) {
        let Ok(manifest) = Manifest::load(&self.disk, &self.place.manifest, &self.place.identity).await else { return };
        for piece in made {
            if matches!(piece.name, PieceName::Store(number) if !manifest.stores.contains(&number)) {
                // The next start removes what cannot be removed now.
                let _ = self.unlink(&self.path(piece.name)).await;
            }
        }
    }

    pub(super) fn holdings(&self) -> Vec<Holding> {
        let below = self.pieces.iter().filter(|(name, kept)| self.is_below_floor(**name, kept));
        let mut holdings: Vec<Holding> = below
            .filter_map(|(&name, kept)| {
                let (live_jobs, live_bytes) = kept.live?;
                Some(Holding {
                    name,
                    file_bytes: kept.file_bytes,
                    jobs: kept.footer.jobs() as u64,
                    enqueue_bytes: kept.footer.enqueue_bytes(),
                    live_jobs,
                    live_bytes,
                    first_job: kept.footer.first_job(),
                    is_damaged: kept.is_damaged,
                })
            })
            .collect();
        holdings.sort_by_key(|holding| holding.first_job);
        holdings
    }

    /// Copies what lives in these files, which are neighbours, into new ones; durable when it returns.
    pub(super) async fn rewrite(
        &mut self,
        names: &[PieceName],
        rows: &[(Rc<Footer>, Rc<Footer>)],
        made: &mut Vec<SegmentNumber>,
    ) -> Result<(), KeepError> {
        let mut draft = self.begin_store();
        for (&name, (footer, rows)) in names.iter().zip(rows) {
            let mut copied = LastEntry::default();
            let mut next = footer.first_job();
            loop {
                let jobs = self.live_jobs(footer, next);
                let Some(&last) = jobs.last() else { break };
                for &job in &jobs {
                    let found = match self.find_enqueue(name, rows, job, &mut copied).await {
                        Ok(found) => found,
                        Err(error) => return Err(self.note_damage(name, error)),
                    };
                    let (index, wall, enqueue) = (found.index, found.wall, &found.bytes[..]);
                    let (class, _) = whole_enqueue(enqueue).expect("what is found is an ENQ");
                    let bytes = draft.record_bytes() + enqueue.len() as u64;
                    if !draft.is_empty() && (bytes > self.place.bounds.store_bytes_max || !draft.spans(job, index)) {
                        let full = std::mem::replace(&mut draft, self.begin_store());
                        self.write_store(full, made).await?;
                    }
                    draft.push(&StoredJob { job, index, wall, class, enqueue });
                }
                next = JobId(last.0 + 1);
                yield_now().await;
            }
        }
        self.write_store(draft, made).await
    }

    pub(super) fn begin_store(&mut self) -> StoreDraft {
        let number = self.manifest.next_store;
        self.manifest.next_store = SegmentNumber(number.0.checked_add(1).expect("fewer than 2^32 store segments"));
        StoreDraft::new(number, self.place.identity)
    }

    pub(super) async fn write_store(&self, draft: StoreDraft, made: &mut Vec<SegmentNumber>) -> Result<(), KeepError> {
        if draft.is_empty() {
            return Ok(());
        }
        let number = draft.number();
        self.fill(&self.path(PieceName::Store(number)), draft.finish()).await?;
        made.push(number);
        Ok(())
    }

    /// A job's ENQ, proven to be one with the body that it names.
    pub(super) async fn read_enqueue<'a>(
        &self,
        name: PieceName,
        footer: &'a Footer,
        job: JobId,
        copied: &mut LastEntry,
    ) -> Result<(Row<'a>, Bytes), ReadError> {
        let damaged = |offset: u64| ReadError { path: self.path(name), offset, reason: ReadFailure::Record };
        let row = footer.find(job).ok_or_else(|| damaged(0))?;
        let (offset, bytes) = (row.offset, row.bytes);
        let enqueue = match name {
            PieceName::Store(number) => self.stores.read(&RecordAt { number, offset, bytes, job }).await?,
            PieceName::Log(_) => {
                let entry = copied.entry(&self.reader, row.placement).await?;
                let (from, to) = (offset as usize, offset as usize + bytes as usize);
                let payload = entry.payload_bytes();
                if to > payload.len() {
                    return Err(damaged(row.placement.offset));
                }
                payload.slice(from..to)
            }
        };
        if whole_enqueue(&enqueue).is_some() { Ok((row, enqueue)) } else { Err(damaged(row.placement.offset)) }
    }

    /// The file is left alone until it is mended.
    pub(super) fn note_damage(&mut self, name: PieceName, error: ReadError) -> KeepError {
        if let Some(kept) = self.pieces.get_mut(&name) {
            kept.is_damaged = true;
            self.found_damaged.push(name);
        }
        KeepError::Damaged(error)
    }

    /// Removes the files that a change gave up, and segments that no entry counts of any more.
    ///
    /// # Errors
    /// If one could not be removed; the next start will.
    pub async fn finish(&self, raised: Option<Index>, removed: &[PieceName]) -> Result<(), KeepError> {
        for &name in removed {
            match name {
                PieceName::Log(number) => {
                    self.reader.forget(number);
                    self.unlink(&self.rows_path(number)).await?;
                }
                PieceName::Store(number) => self.stores.forget(number),
            }
            self.unlink(&self.path(name)).await?;
        }
        if raised.is_some() {
            self.remove_passed_over().await?;
        }
        Ok(())
    }

    /// Segments that were begun, and cut off as a whole: they have no rows.
    pub(super) async fn remove_passed_over(&self) -> Result<(), KeepError> {
        let dir = &self.place.segments;
        for file in self.disk.list(dir).await.map_err(not_read("list", dir))? {
            let Some(number) = parse_file_name(&file.name) else { continue };
            if self.pieces.contains_key(&PieceName::Log(number)) {
                continue;
            }
            // A spare has no header yet.
            if let Ok((header, _)) = self.header(number).await
                && header.epoch.ordinal() < self.manifest.floor.ordinal
            {
                self.unlink(&dir.join(&file.name)).await?;
            }
        }
        Ok(())
    }
}
