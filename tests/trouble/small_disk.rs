//! Small file systems in files, mounted for a test: they fill up, and hang when frozen. Needs root.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;

pub struct SmallDisk {
    mounted_at: PathBuf,
}

impl SmallDisk {
    /// None where this process may not mount, or the tools are missing.
    pub fn mount(mounted_at: &Path, mebibytes: u64) -> Option<SmallDisk> {
        let image = mounted_at.with_extension("img");
        File::create(&image).ok()?.set_len(mebibytes << 20).ok()?;
        fs::create_dir_all(mounted_at).ok()?;
        // No blocks kept for root: full means full for everybody.
        let made = ran(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image))
            && ran(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(mounted_at));
        made.then(|| SmallDisk { mounted_at: mounted_at.to_owned() })
    }

    fn filler(&self) -> PathBuf {
        self.mounted_at.join("filler")
    }

    /// Takes this much away from the node.
    pub fn take(&self, bytes: u64) {
        let file = fs::OpenOptions::new().append(true).create(true).open(self.filler()).expect("it can be written");
        let length = file.metadata().expect("it is open").len();
        extend(&file, length, bytes).expect("there is that much");
    }

    /// Takes every block that is left.
    pub fn fill(&self) {
        let file = fs::OpenOptions::new().append(true).create(true).open(self.filler()).expect("it can be written");
        let mut length = file.metadata().expect("it is open").len();
        for step in [1 << 20, 64 << 10, 4 << 10] {
            while extend(&file, length, step).is_ok() {
                length += step;
            }
        }
    }

    /// Gives back what was taken.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("something was taken");
    }

    /// Every write hangs from now on.
    pub fn freeze(&self) {
        assert!(ran(Command::new("fsfreeze").arg("--freeze").arg(&self.mounted_at)));
    }

    pub fn thaw(&self) {
        assert!(ran(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted_at)));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What hangs must end before it can be unmounted.
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted_at).output();
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted_at).status();
    }
}

fn ran(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn extend(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    let (from, bytes) = (from.try_into().expect("small"), bytes.try_into().expect("small"));
    // SAFETY: the descriptor is open for the length of the call, and no memory is passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, from, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A cluster whose nodes have a small disk each.
pub struct SmallCluster {
    pub cluster: Cluster,
    pub disks: Vec<SmallDisk>,
}

impl SmallCluster {
    /// Three prepared nodes that are not started; none where small disks cannot be had.
    pub fn prepare(name: &str, mebibytes: u64, more: &str) -> Option<SmallCluster> {
        let cluster = Cluster::lay_out(name, 3, 1, more);
        let mut small = SmallCluster { cluster, disks: Vec::new() };
        for node in &small.cluster.nodes {
            let Some(disk) = SmallDisk::mount(&node.data, mebibytes) else {
                eprintln!("skipped: a small file system cannot be made and mounted here");
                return None;
            };
            small.disks.push(disk);
            node.init();
        }
        Some(small)
    }
}

impl Drop for SmallCluster {
    fn drop(&mut self) {
        // What hangs must go on before its process can end, and the processes end before their disks are taken away.
        for disk in &self.disks {
            let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&disk.mounted_at).output();
        }
        for node in &mut self.cluster.nodes {
            node.kill();
        }
        self.disks.clear();
    }
}
