//! A disk that is full says so, and what could not be made is not left behind.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use beaver_raft::io::{AlignedBuf, BLOCK_BYTES, Disk, File, OpenMode, Runtime};

use crate::world::{directory, on_core};

/// A file system of 16 MiB in a file, mounted for the length of a test.
struct SmallDisk {
    mounted_at: PathBuf,
    _directory: tempfile::TempDir,
}

impl SmallDisk {
    /// None where this process may not mount, or the tools are missing.
    fn mount() -> Option<SmallDisk> {
        let directory = directory();
        let (image, mounted_at) = (directory.path().join("image"), directory.path().join("mounted"));
        let file = std::fs::File::create(&image).ok()?;
        file.set_len(16 << 20).ok()?;
        std::fs::create_dir(&mounted_at).ok()?;
        let ran = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        if ran(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted_at))
        {
            return Some(SmallDisk { mounted_at, _directory: directory });
        }
        eprintln!("skipped: a small file system cannot be made and mounted here");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounted_at.join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a file that is being closed on a side thread must not keep it mounted for ever.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted_at).status();
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"));
    names.filter(|name| name != "lost+found").collect()
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_not_left_behind() {
    let Some(small) = SmallDisk::mount() else { return };
    on_core(|runtime| {
        let (zeroed, allocated) = (small.path("zeroed"), small.path("allocated"));
        async move {
            let disk = runtime.disk();
            let error = disk.make_zeroed(zeroed, 64 << 20).await.expect_err("it does not fit");
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            let error = disk.make_allocated(&allocated, 64 << 20).await.expect_err("it does not fit");
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        }
    });
    assert_eq!(names(&small.mounted_at), Vec::<String>::new());
}

#[test]
fn a_write_into_a_full_disk_fails_and_one_into_a_zeroed_file_does_not_need_room() {
    let Some(small) = SmallDisk::mount() else { return };
    on_core(|runtime| {
        let (ready, filler) = (small.path("ready"), small.path("filler"));
        async move {
            let disk = runtime.disk();
            disk.make_zeroed(ready.clone(), 1 << 20).await.expect("it fits");
            let ready = disk.open(&ready, OpenMode::Write).await.expect("it exists");
            let filler = disk.open(&filler, OpenMode::Create).await.expect("a new file");
            let mut buf = AlignedBuf::zeroed(1 << 20);
            let mut offset = 0;
            let error = loop {
                let (result, returned) = filler.write_at(buf, offset).await;
                buf = returned;
                offset += 1 << 20;
                match result {
                    Ok(()) => assert!(offset <= 16 << 20, "a disk of 16 MiB holds no more"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
            let (result, _) = ready.write_at(AlignedBuf::zeroed(BLOCK_BYTES), 0).await;
            result.expect("its blocks are its own");
        }
    });
}
