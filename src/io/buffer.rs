//! A byte buffer whose address and capacity are multiples of a block, for direct I/O.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use super::BLOCK_BYTES;

/// Owned, zero-filled at birth, whole blocks long, aligned to [`BLOCK_BYTES`].
///
/// Invariant: `bytes <= capacity`, and all of the capacity is initialised.
pub struct AlignedBuf {
    start: NonNull<u8>,
    bytes: usize,
    capacity: usize,
}

impl AlignedBuf {
    /// `bytes` is rounded up to whole blocks; at least one block.
    #[must_use]
    pub fn zeroed(bytes: usize) -> AlignedBuf {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = Self::layout(bytes);
        // SAFETY: the layout's size is at least one block, so not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuf { start, bytes, capacity: bytes }
    }

    /// A buffer of so many zeros, in the memory of this one where it has room: fresh memory costs a page fault for each of
    /// its pages.
    #[must_use]
    pub fn zeroed_again(mut self, bytes: usize) -> AlignedBuf {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        if bytes > self.capacity {
            return AlignedBuf::zeroed(bytes);
        }
        self.bytes = bytes;
        self.fill(0);
        self
    }

    /// How many bytes it can hold without other memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, BLOCK_BYTES).expect("a buffer is far smaller than isize::MAX")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points to `bytes` initialised bytes that this value owns.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

// SAFETY: the buffer owns its memory alone, as a `Box<[u8]>` does.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_used_again_is_zero_and_keeps_its_memory_where_it_fits() {
        let mut first = AlignedBuf::zeroed(3 * BLOCK_BYTES);
        first.fill(7);
        let address = first.as_ptr();
        let shorter = first.zeroed_again(BLOCK_BYTES + 1);
        assert_eq!((shorter.as_ptr(), shorter.len(), shorter.capacity()), (address, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES));
        let whole = shorter.zeroed_again(3 * BLOCK_BYTES);
        assert_eq!(whole.as_ptr(), address);
        assert!(whole.iter().all(|&byte| byte == 0), "what the first use left behind is gone");
        assert_eq!(whole.zeroed_again(4 * BLOCK_BYTES).len(), 4 * BLOCK_BYTES);
    }

    #[test]
    fn a_buffer_is_aligned_zeroed_and_whole_blocks_long() {
        for asked in [0, 1, 4096, 4097, 100_000] {
            let buf = AlignedBuf::zeroed(asked);
            assert_eq!(buf.as_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(buf.len() % BLOCK_BYTES, 0);
            assert!(buf.len() >= asked.max(1));
            assert!(buf.iter().all(|&b| b == 0));
        }
    }
}
