//! Below the floor: which jobs live in which file, and the files in which none does.
//!
//! It must never count a job as gone that lives in the newest verified snapshot, nor raise the floor into a segment.

use super::*;
use crate::mutation::{self, Mutation};

impl<D: Disk> Keeper<D> {
    /// The jobs that lived in the newest verified snapshot are these, and the log counts from `floor` on. Files in which none
    /// of them is are given up.
    ///
    /// # Errors
    /// If the manifest could not be replaced.
    pub async fn retain(&mut self, floor: Option<NewFloor>, live: Arc<RoaringTreemap>) -> Result<Change, KeepError> {
        self.live = live;
        self.knows_what_lives = true;
        let mut manifest = self.manifest.clone();
        if let Some(NewFloor { position, chain, next_job }) =
            floor.filter(|floor| floor.position > manifest.floor.position)
        {
            let below = self.pieces.values().filter(|kept| kept.footer.subject().last <= position.index);
            let ordinal = below.map(|kept| kept.ordinal + 1).max().unwrap_or(0).max(manifest.floor.ordinal);
            manifest.floor = Floor { position, chain, next_job, ordinal };
        }
        let raised = (manifest.floor != self.manifest.floor).then_some(manifest.floor.position.index);
        let limit = manifest.floor.position.index;
        let is_below =
            |name: &PieceName, kept: &Kept| matches!(name, PieceName::Store(_)) || kept.footer.subject().last <= limit;
        let below = self.pieces.iter().filter(|(name, kept)| is_below(name, kept));
        let live_max = u64::from(mutation::is_on(Mutation::LiveFileDropped));
        let (dead, kept): (Vec<_>, Vec<_>) = below.partition(|(_, kept)| self.count_live(&kept.footer) <= live_max);
        let removed: Vec<PieceName> = dead.into_iter().map(|(name, _)| *name).collect();
        let kept: Vec<(PieceName, Index)> =
            kept.into_iter().map(|(name, kept)| (*name, kept.footer.subject().last)).collect();
        let floor_before = self.manifest.floor.position.index;
        let passed = kept.iter().filter(|(_, last)| *last > floor_before).map(|(name, _)| *name);
        let damaged: Vec<PieceName> = passed.filter(|name| self.pieces[name].is_damaged).collect();
        self.save(manifest, kept, &removed).await?;
        // Above the floor they could not be mended.
        self.found_damaged.extend(damaged);
        self.dropped_files += removed.len() as u64;
        self.count_live_bytes().await;
        Ok(Change { floor: raised, removed, added: Vec::new() })
    }

    /// Replaces the manifest, if it says something else now; then forgets what was removed.
    pub(super) async fn save(
        &mut self,
        mut manifest: Manifest,
        kept: Vec<(PieceName, Index)>,
        removed: &[PieceName],
    ) -> Result<(), KeepError> {
        let (mut segments, mut stores) = (Vec::new(), Vec::new());
        for (name, last) in kept {
            match name {
                PieceName::Log(number) => segments.push((number, last)),
                PieceName::Store(number) => stores.push(number),
            }
        }
        segments.sort_unstable();
        stores.sort_unstable();
        (manifest.segments, manifest.stores) = (segments, stores);
        if manifest != self.manifest {
            manifest.save(&self.disk, &self.place.manifest, &self.place.identity).await?;
            self.manifest = manifest;
        }
        for name in removed {
            self.pieces.remove(name);
        }
        Ok(())
    }

    pub(super) fn count_live(&self, footer: &Footer) -> u64 {
        let below = |job: JobId| job.0.checked_sub(1).map_or(0, |last| self.live.rank(last));
        below(footer.next_job()) - below(footer.first_job())
    }

    /// How many bytes of ENQs live in each file below the floor, where that may have changed.
    pub(super) async fn count_live_bytes(&mut self) {
        let names: Vec<PieceName> = self.pieces.keys().copied().collect();
        for name in names {
            let kept = &self.pieces[&name];
            let jobs = self.count_live(&kept.footer);
            // Dead stays dead: as many live jobs are the same ones.
            if !self.is_below_floor(name, kept) || kept.live.is_some_and(|(counted, _)| counted == jobs) {
                continue;
            }
            let footer = Rc::clone(&kept.footer);
            let bytes =
                if jobs == footer.jobs() as u64 { Some(footer.enqueue_bytes()) } else { self.sum_live(&footer).await };
            if let Some(kept) = self.pieces.get_mut(&name) {
                if bytes.is_none() {
                    kept.is_damaged = true;
                    self.found_damaged.push(name);
                }
                kept.live = Some((jobs, bytes.unwrap_or(footer.enqueue_bytes())));
            }
        }
    }

    /// None where a live job has no row: the rows are damaged.
    pub(super) async fn sum_live(&self, footer: &Footer) -> Option<u64> {
        let (mut next, mut sum) = (footer.first_job(), 0);
        loop {
            let jobs = self.live_jobs(footer, next);
            let Some(&last) = jobs.last() else { return Some(sum) };
            for &job in &jobs {
                sum += u64::from(footer.find(job)?.bytes);
            }
            next = JobId(last.0 + 1);
            yield_now().await;
        }
    }

    /// The next live jobs of a file from `first` on.
    pub(super) fn live_jobs(&self, footer: &Footer, first: JobId) -> Vec<JobId> {
        let mut live = self.live.iter();
        live.advance_to(first.0);
        live.map(JobId).take_while(|job| *job < footer.next_job()).take(ROWS_AT_ONCE).collect()
    }
}
