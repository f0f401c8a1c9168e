//! Files that are open for reading: a few, the most recently used last.

use std::cell::{Cell, RefCell};

use super::index::SegmentNumber;

/// At most so many at a time, of one kind.
pub const OPEN_FILES_MAX: usize = 64;

/// Shared by the tasks of one thread. Never borrowed across an await.
pub(super) struct OpenFiles<F> {
    open: RefCell<Vec<(SegmentNumber, F)>>,
    /// How often files were forgotten.
    forgotten: Cell<u64>,
}

/// A file is being opened since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Since(u64);

impl<F: Clone> OpenFiles<F> {
    pub(super) fn new() -> OpenFiles<F> {
        OpenFiles { open: RefCell::default(), forgotten: Cell::new(0) }
    }

    pub(super) fn find(&self, number: SegmentNumber) -> Option<F> {
        let mut open = self.open.borrow_mut();
        let at = open.iter().rposition(|(open, _)| *open == number)?;
        let found = open.remove(at);
        let file = found.1.clone();
        open.push(found);
        Some(file)
    }

    /// Before a file is opened that is not here.
    pub(super) fn since(&self) -> Since {
        Since(self.forgotten.get())
    }

    /// Keeps what was opened; unless something was forgotten meanwhile, for it may have been this: then its reader is the last.
    pub(super) fn keep(&self, since: Since, number: SegmentNumber, file: F) {
        let mut open = self.open.borrow_mut();
        if self.since() != since || open.iter().any(|(open, _)| *open == number) {
            return;
        }
        if open.len() == OPEN_FILES_MAX {
            open.remove(0);
        }
        open.push((number, file));
    }

    pub(super) fn forget(&self, number: SegmentNumber) {
        self.forgotten.set(self.forgotten.get() + 1);
        self.open.borrow_mut().retain(|(open, _)| *open != number);
    }

    pub(super) fn forget_all(&self) {
        self.forgotten.set(self.forgotten.get() + 1);
        self.open.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(files: &OpenFiles<u32>, number: u32) {
        files.keep(files.since(), SegmentNumber(number), number);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let files = OpenFiles::new();
        (0..OPEN_FILES_MAX as u32).for_each(|number| keep(&files, number));
        assert_eq!(files.find(SegmentNumber(0)), Some(0));
        keep(&files, 1000);
        assert_eq!(files.find(SegmentNumber(1)), None);
        assert_eq!(files.find(SegmentNumber(0)), Some(0));
    }

    /// Its name may be another file's by then, or its room be waited for.
    #[test]
    fn a_file_that_was_forgotten_while_it_was_opened_is_not_kept() {
        let files = OpenFiles::new();
        let since = files.since();
        files.forget(SegmentNumber(7));
        files.keep(since, SegmentNumber(7), 7);
        assert_eq!(files.find(SegmentNumber(7)), None);
        keep(&files, 7);
        assert_eq!(files.find(SegmentNumber(7)), Some(7));
    }
}
