//! Whether glommio may open a file for direct I/O: it looks a device up in sysfs, and panics over what it does not expect.
//!
//! It must never say yes where glommio would take the node down.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where glommio looks: at the first device with the major number of the file's, which may be another disk, a partition
/// (it has no queue), or hidden in a container.
pub(super) fn is_understood(directory: &Path) -> bool {
    let Ok(metadata) = fs::metadata(directory) else { return false };
    is_described(&Path::new("/sys/dev/block").join(format!("{}:0", libc::major(metadata.dev()))))
}

/// What glommio reads there, and must be able to read as a number.
const NUMBERS: [&str; 7] = [
    "rotational",
    "minimum_io_size",
    "optimal_io_size",
    "logical_block_size",
    "physical_block_size",
    "max_sectors_kb",
    "max_segment_size",
];

fn is_described(device: &Path) -> bool {
    let device = match fs::canonicalize(device) {
        // It takes such a device for memory and asks no further.
        Err(error) => return error.kind() == ErrorKind::NotFound,
        Ok(device) => device,
    };
    let property = |name: &str| fs::read_to_string(device.join("queue").join(name)).unwrap_or_default();
    NUMBERS.iter().all(|name| property(name).trim_matches('\n').parse::<isize>().is_ok())
        && matches!(property("write_cache").trim_matches('\n'), "write back" | "write through")
        && fs::read_dir(device.join("slaves")).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> tempfile::TempDir {
        let device = tempfile::tempdir().unwrap();
        fs::create_dir(device.path().join("slaves")).unwrap();
        fs::create_dir(device.path().join("queue")).unwrap();
        for name in NUMBERS {
            fs::write(device.path().join("queue").join(name), "512\n").unwrap();
        }
        fs::write(device.path().join("queue/write_cache"), "write back\n").unwrap();
        device
    }

    #[test]
    fn a_device_that_is_described_in_full_or_not_at_all_is_understood() {
        assert!(is_described(described().path()));
        assert!(is_described(Path::new("/no/such/device")));
    }

    #[test]
    fn a_partition_and_a_strange_description_are_not_understood() {
        let partition = described();
        fs::remove_dir_all(partition.path().join("queue")).unwrap();
        assert!(!is_described(partition.path()));
        for (name, text) in [("max_segment_size", "many\n"), ("rotational", ""), ("write_cache", "none\n")] {
            let strange = described();
            fs::write(strange.path().join("queue").join(name), text).unwrap();
            assert!(!is_described(strange.path()), "{name}");
        }
        let no_slaves = described();
        fs::remove_dir(no_slaves.path().join("slaves")).unwrap();
        assert!(!is_described(no_slaves.path()));
    }
}
