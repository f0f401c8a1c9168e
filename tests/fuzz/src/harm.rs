//! Harm done to the files of a simulated disk, as the fuzzer chooses.

use std::path::PathBuf;

use beaver_raft::sim::disk::SimDisk;

use crate::input::Input;

const BLOCK: u64 = 4096;

/// Damages one of `paths`: bytes are overwritten or flipped, blocks are zeroed, unreadable, or (if `may_copy`) replaced by
/// another block of the same file, as a misdirected write does.
pub fn harm(disk: &SimDisk, paths: &[PathBuf], input: &mut Input<'_>, may_copy: bool) {
    let Some(path) = paths.get(usize::from(input.below(u8::try_from(paths.len()).unwrap_or(u8::MAX)))) else { return };
    let Some((_, length)) = disk.files().into_iter().find(|(found, _)| found == path) else { return };
    if length == 0 {
        return;
    }
    let blocks = length.div_ceil(BLOCK);
    let what = input.below(5);
    let block = u64::from(input.u16()) % blocks * BLOCK;
    let whole = usize::try_from(BLOCK.min(length - block)).expect("a block");
    // What cannot be read can be neither flipped nor copied; that is harm enough.
    let _ = match what {
        0 => {
            let at = block + u64::from(input.u16()) % whole as u64;
            let most = usize::try_from(length - at).unwrap_or(usize::MAX).min(64);
            let count = usize::from(input.below(64)).min(most);
            disk.poke(path, at, input.bytes(count))
        }
        1 => disk.flip_bit(path, block * 8 + u64::from(input.u16()) % (whole as u64 * 8)),
        2 => disk.poke(path, block, &vec![0; whole]),
        3 => disk.make_unreadable(path, block, whole),
        _ if may_copy => {
            let from = u64::from(input.u16()) % blocks * BLOCK;
            let bytes = usize::try_from(BLOCK.min(length - from)).expect("a block").min(whole);
            disk.peek(path, from, bytes).and_then(|copied| disk.poke(path, block, &copied))
        }
        _ => Ok(()),
    };
}
