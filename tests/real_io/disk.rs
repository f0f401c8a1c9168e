//! Files: what is written is read, what cannot be is told.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use beaver_raft::io::{AlignedBuf, BLOCK_BYTES, DirEntry, Disk, File, OpenMode, Pieces, Runtime};

use crate::world::{directory, filled, on_core, options};
use beaver_raft::io::uring::{Durability, block_on_core};

#[test]
fn what_was_written_is_read_back_with_either_kind_of_durability() {
    for durability in [Durability::SyncedWrite, Durability::WriteThenSync] {
        let dir = directory();
        let path = dir.path().join("file");
        let options = beaver_raft::io::uring::CoreOptions { durability, ..options() };
        block_on_core(&options, async |runtime| {
            let disk = runtime.disk();
            let file = disk.open(&path, OpenMode::Create).await.expect("a new file");
            for (block, seed) in [(0, 1), (3, 2), (1, 3)] {
                let (result, _) = file.write_at(filled(BLOCK_BYTES, seed), block * BLOCK_BYTES as u64).await;
                result.expect("room");
            }
            let file = disk.open(&path, OpenMode::Read).await.expect("it exists");
            assert_eq!(file.bytes(), 4 * BLOCK_BYTES as u64);
            let (result, whole) = file.read_at(AlignedBuf::zeroed(4 * BLOCK_BYTES), 0).await;
            result.expect("all of it is there");
            assert_eq!(whole[..BLOCK_BYTES], *filled(BLOCK_BYTES, 1));
            assert_eq!(whole[BLOCK_BYTES..2 * BLOCK_BYTES], *filled(BLOCK_BYTES, 3));
            assert!(whole[2 * BLOCK_BYTES..3 * BLOCK_BYTES].iter().all(|&byte| byte == 0));
            assert_eq!(whole[3 * BLOCK_BYTES..], *filled(BLOCK_BYTES, 2));
        })
        .expect("io_uring works here");
    }
}

#[test]
fn a_read_beyond_the_end_is_an_unexpected_end_of_file_also_where_the_file_ends_inside_a_block() {
    let dir = directory();
    let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
    std::fs::write(&whole, vec![7; 2 * BLOCK_BYTES]).expect("room");
    std::fs::write(&cut, vec![7; BLOCK_BYTES + 100]).expect("room");
    on_core(|runtime| async move {
        for (path, offset, bytes) in [(&whole, 1, 2), (&whole, 2, 1), (&whole, 9, 1), (&cut, 0, 2), (&cut, 1, 1)] {
            let file = runtime.disk().open(path, OpenMode::Read).await.expect("it exists");
            let (result, buf) = file.read_at(AlignedBuf::zeroed(bytes * BLOCK_BYTES), offset * 4096).await;
            assert_eq!(result.expect_err("there is not that much").kind(), ErrorKind::UnexpectedEof);
            assert_eq!(buf.len(), bytes * BLOCK_BYTES, "the buffer comes back");
        }
    });
}

#[test]
fn an_open_does_what_its_mode_says() {
    let dir = directory();
    let path = dir.path().join("file");
    on_core(|runtime| async move {
        let disk = runtime.disk();
        for mode in [OpenMode::Read, OpenMode::Write] {
            assert_eq!(disk.open(&path, mode).await.expect_err("missing").kind(), ErrorKind::NotFound);
        }
        disk.open(&path, OpenMode::Create).await.expect("a new file");
        assert_eq!(disk.open(&path, OpenMode::Create).await.expect_err("exists").kind(), ErrorKind::AlreadyExists);
        let reader = disk.open(&path, OpenMode::Read).await.expect("it exists");
        assert!(reader.write_at(AlignedBuf::zeroed(1), 0).await.0.is_err(), "a reader does not write");
    });
}

#[test]
fn directories_are_listed_in_order_and_files_move_and_go() {
    let dir = directory();
    let log = dir.path().join("log");
    on_core(|runtime| async move {
        let disk = runtime.disk();
        disk.create_dir(&log).await.expect("room");
        disk.create_dir(&log).await.expect("one that exists is fine");
        disk.create_dir(&log.join("below")).await.expect("room");
        for name in ["b", "c", "a"] {
            disk.make_allocated(&log.join(name), 8192).await.expect("room");
        }
        disk.rename(&log.join("c"), &log.join("0")).await.expect("it exists");
        disk.unlink(&log.join("a")).await.expect("it exists");
        disk.sync_dir(&log).await.expect("a directory");
        let entry = |name: &str| DirEntry { name: name.to_owned(), bytes: 8192 };
        assert_eq!(disk.list(&log).await.expect("a directory"), [entry("0"), entry("b")]);
        assert_eq!(disk.unlink(&log.join("a")).await.expect_err("gone").kind(), ErrorKind::NotFound);
        assert!(disk.free_bytes(&log).await.expect("a file system") > 0);
        let missing = disk.create_dir(&log.join("x").join("y")).await.expect_err("no parent");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_small_file_is_replaced_as_a_whole_and_read_up_to_its_limit() {
    let dir = directory();
    let path = dir.path().join("boot");
    on_core(|runtime| async move {
        let disk = runtime.disk();
        assert_eq!(disk.read_small(&path, 10).await.expect("none is no error"), None);
        disk.replace_small(&path, b"first content").await.expect("room");
        disk.replace_small(&path, b"second").await.expect("room");
        assert_eq!(disk.read_small(&path, 6).await.expect("it fits").as_deref(), Some(&b"second"[..]));
        assert_eq!(disk.read_small(&path, 5).await.expect_err("too long").kind(), ErrorKind::InvalidData);
        assert_eq!(disk.list(path.parent().expect("a directory")).await.expect("a directory").len(), 1);
    });
}

#[test]
fn a_file_is_filled_piece_by_piece_and_mapped_as_a_whole() {
    let dir = directory();
    let path = dir.path().join("filled");
    let lengths = [0, 3, 300_000, BLOCK_BYTES];
    let content: Vec<u8> = lengths.iter().zip(1..).flat_map(|(&bytes, value)| vec![value; bytes]).collect();
    on_core(|runtime| async move {
        let disk = runtime.disk();
        let give = |failing: bool| -> Pieces {
            let mut pieces = lengths.into_iter().zip(1..);
            Box::new(move || match pieces.next() {
                Some((BLOCK_BYTES, _)) if failing => Err(std::io::Error::other("a piece cannot be made")),
                piece => Ok(piece.map(|(bytes, value)| vec![value; bytes])),
            })
        };
        let error = disk.make_filled(path.clone(), give(true)).await.expect_err("a piece is missing");
        assert!(error.to_string().contains("a piece cannot be made"), "{error}");
        assert_eq!(disk.open(&path, OpenMode::Read).await.expect_err("removed").kind(), ErrorKind::NotFound);
        let bytes = disk.make_filled(path.clone(), give(false)).await.expect("room");
        assert_eq!(bytes, content.len().next_multiple_of(BLOCK_BYTES) as u64);
        let again = disk.make_filled(path.clone(), give(false)).await.expect_err("it exists");
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let map = disk.map(&path).await.expect("it exists");
        disk.unlink(&path).await.expect("it exists");
        let mapped = map.clone();
        drop(map);
        let mapped = mapped.as_ref();
        assert_eq!(mapped.len() as u64, bytes);
        assert_eq!(mapped[..content.len()], content);
        assert!(mapped[content.len()..].iter().all(|&byte| byte == 0));
    });
}

#[test]
fn a_zeroed_file_is_zero_and_really_written() {
    let dir = directory();
    let (zeroed, allocated) = (dir.path().join("zeroed"), dir.path().join("allocated"));
    // Not a multiple of the bulk path's chunk, so that the tail is shorter.
    let bytes = 3 * 1024 * 1024 + 5 * BLOCK_BYTES;
    on_core(|runtime| {
        let (zeroed, allocated) = (zeroed.clone(), allocated.clone());
        async move {
            let disk = runtime.disk();
            disk.make_zeroed(zeroed.clone(), bytes as u64).await.expect("room");
            disk.make_allocated(&allocated, bytes as u64).await.expect("room");
            for path in [&zeroed, &allocated] {
                let file = disk.open(path, OpenMode::Write).await.expect("it exists");
                assert_eq!(file.bytes(), bytes as u64);
                let (result, buf) = file.read_at(AlignedBuf::zeroed(bytes), 0).await;
                result.expect("all of it is there");
                assert!(buf.iter().all(|&byte| byte == 0));
            }
            let again = disk.make_zeroed(zeroed, bytes as u64).await.expect_err("it exists");
            assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        }
    });
    assert!(std::fs::metadata(&zeroed).expect("it exists").blocks() * 512 >= bytes as u64);
    assert_eq!(unwritten_extents(&zeroed), Some(0), "every extent is written");
    assert_ne!(unwritten_extents(&allocated), Some(0), "and the check would tell");
}

/// How many extents of a file are allocated but not written; none where the file system cannot say.
fn unwritten_extents(path: &Path) -> Option<usize> {
    let listing = std::process::Command::new("filefrag").arg("-v").arg(path).output().ok()?;
    if !listing.status.success() {
        return None;
    }
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    Some(listing.lines().filter(|line| line.contains("unwritten")).count())
}

#[test]
fn a_core_may_end_with_reads_and_writes_in_flight() {
    let dir = directory();
    let path = dir.path().join("file");
    for _ in 0..20 {
        on_core(|runtime| {
            let path = path.clone();
            async move {
                let _ = std::fs::remove_file(&path);
                let file = runtime.disk().open(&path, OpenMode::Create).await.expect("a new file");
                file.write_at(AlignedBuf::zeroed(256 * BLOCK_BYTES), 0).await.0.expect("room");
                for block in 0..64 {
                    let file = file.clone();
                    runtime.spawn(async move {
                        let offset = block * BLOCK_BYTES as u64;
                        let _ = file.read_at(AlignedBuf::zeroed(4 * BLOCK_BYTES), offset).await;
                        let _ = file.write_at(AlignedBuf::zeroed(BLOCK_BYTES), offset).await;
                    });
                }
                // One turn for the tasks to submit, none for the operations to end.
                tokio::task::yield_now().await;
            }
        });
    }
}

#[test]
fn many_files_may_be_made_at_once() {
    let dir = directory();
    on_core(|runtime| {
        let dir = dir.path().to_owned();
        async move {
            let made = std::rc::Rc::new(std::cell::Cell::new(0));
            for number in 0..20 {
                let (disk, made) = (runtime.disk().clone(), std::rc::Rc::clone(&made));
                let path = dir.join(number.to_string());
                runtime.spawn(async move {
                    disk.make_zeroed(path, 16 * BLOCK_BYTES as u64).await.expect("room");
                    made.set(made.get() + 1);
                });
            }
            while made.get() < 20 {
                runtime.sleep(beaver_raft::types::Nanos::from_millis(1)).await;
            }
            assert_eq!(runtime.disk().list(&dir).await.expect("a directory").len(), 20);
        }
    });
}
