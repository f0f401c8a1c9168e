//! Segments that are written no more: once all their entries are committed, their rows leave memory for a mapped file.
//!
//! It must never close a segment of which something may still be cut off.

use std::rc::Rc;

use super::Shard;
use super::effect::{Effect, Keep};
use crate::wal::footer::Footer;

impl Shard {
    /// Has the rows of the oldest segment in memory written, if it is written no more and all of it is committed.
    pub(super) fn close_segment(&mut self) {
        if self.closing.is_some() || self.stopped {
            return;
        }
        let Some((number, last)) = self.catalog.closable(self.committed) else { return };
        // A segment at or below the floor was closed before it came there.
        let Some(base_chain) = self.raft.log().chain_at(self.catalog.base()) else { return };
        let (subject, rows) = self.catalog.draft(number, last, base_chain);
        self.closing = Some(number);
        self.effects.push_back(Effect::Keep(Keep::Rows { subject, rows }));
    }

    /// The rows of the segment that was being closed are mapped.
    pub fn handle_rows_mapped(&mut self, footer: Rc<Footer>) {
        let number = self.closing.take();
        assert_eq!(number, Some(footer.number()), "one segment is closed at a time");
        self.catalog.close(footer);
        self.close_segment();
    }
}
