//! Every entry above the floor, read as a start would.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::Look;
use super::{FileFound, LogFound, MarkerFound, Standing};
use crate::io::Disk;
use crate::types::{ChainHash, Index, LogPosition};
use crate::wal::entry::{Entry, EntryKind};
use crate::wal::index::{Placement, SegmentNumber};
use crate::wal::recovery::{Examined, LogPlace, Survey, examine};
use crate::wal::rows::Rows;
use crate::wal::segment::file_name;

/// What is noted of entries as they pass.
#[derive(Default)]
struct Noted {
    /// The last entry of a segment, and the jobs in it.
    segments: BTreeMap<SegmentNumber, (Index, u64)>,
    markers: Vec<MarkerFound>,
    /// Of those at which a snapshot stands.
    chains: BTreeMap<Index, (LogPosition, ChainHash)>,
    unreadable: Vec<(Placement, String)>,
}

impl Noted {
    fn entry(&mut self, entry: &Entry, placement: Placement, standing: &[Standing]) {
        let (position, chain) = (entry.meta.position, entry.meta.chain);
        let (last, jobs) = self.segments.entry(placement.segment).or_default();
        *last = position.index;
        *jobs += u64::from(entry.job_count);
        if entry.kind == EntryKind::Marker {
            let payload = bytes::Bytes::copy_from_slice(entry.payload());
            self.markers.push(MarkerFound { index: position.index.0, payload });
        }
        if standing.iter().any(|at| at.position.index == position.index) {
            self.chains.insert(position.index, (position, chain));
        }
        if let Err(error) = Rows::new(entry.first_job).push(entry) {
            self.unreadable.push((placement, format!("entry {position} (index@term): {error}")));
        }
    }
}

impl<D: Disk> Look<'_, D> {
    pub(super) async fn read_log(
        &mut self,
        place: &LogPlace,
        survey: &Survey,
        standing: &[Standing],
        files: &mut [FileFound],
    ) -> Option<LogFound> {
        let mut noted = Noted::default();
        let examined =
            examine(self.disk, place, survey, |entry, placement| noted.entry(entry, placement, standing)).await;
        let Examined { last, committed, faulty, cut } = match examined {
            Ok(examined) => examined,
            Err(error) => {
                self.fault(&place.dir, None, error);
                return None;
            }
        };
        for fault in &faulty {
            let what = format!("entry {} was durable and cannot be read: {}", fault.index, fault.reason);
            self.fault(&fault.path, Some(fault.offset), what);
        }
        for (placement, what) in &noted.unreadable {
            self.fault(&place.dir.join(file_name(placement.segment)), Some(placement.offset), what);
        }
        for (number, (last, jobs)) in &noted.segments {
            let name = file_name(*number);
            for file in files.iter_mut().filter(|file| file.name == name) {
                file.last = Some(last.0);
                file.jobs = file.jobs.or(Some(*jobs));
            }
        }
        noted.chains.insert(place.base.index, (place.base, place.base_chain));
        self.compare(&place.dir, standing, &noted.chains, if faulty.is_empty() { last } else { Index(u64::MAX) });
        let incomplete = cut.map(|cut| {
            let behind = format!("{}, offset {}", cut.path.display(), cut.offset);
            format!("what follows entry {} was never completed: {behind}", cut.after)
        });
        Some(LogFound { last: last.0, committed: committed.0, incomplete, markers: noted.markers })
    }

    /// Whether the log holds the entries at which snapshots stand, as they were then.
    fn compare(
        &mut self,
        dir: &Path,
        standing: &[Standing],
        in_log: &BTreeMap<Index, (LogPosition, ChainHash)>,
        last: Index,
    ) {
        for Standing { position, chain } in standing {
            match in_log.get(&position.index) {
                Some(found) if *found != (*position, *chain) => {
                    let what = format!("the snapshot of entry {position} (index@term) was taken in another history");
                    self.fault(dir, None, what);
                }
                None if position.index > last => {
                    let what =
                        format!("the log ends at entry {last}, below the snapshot of entry {position} (index@term)");
                    self.fault(dir, None, what);
                }
                _ => {}
            }
        }
    }
}
