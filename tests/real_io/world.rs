//! What every test here needs: a directory on a real file system, and a core on the test's own thread.

use std::future::Future;
use std::sync::OnceLock;

use beaver_raft::io::bulk::{Bulk, BulkOptions};
use beaver_raft::io::uring::{CoreOptions, UringRuntime, block_on_core};
use beaver_raft::io::{AlignedBuf, Runtime};
use beaver_raft::types::Nanos;

/// Next to the build, not in /tmp: that may be a tmpfs, which takes O_DIRECT and means nothing by it.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a test may write next to its build")
}

pub fn options() -> CoreOptions {
    static BULK: OnceLock<Bulk> = OnceLock::new();
    CoreOptions::new(BULK.get_or_init(|| Bulk::start(BulkOptions::default()).expect("glommio starts")).clone())
}

pub fn on_core<F: Future>(main: impl FnOnce(UringRuntime) -> F) -> F::Output {
    block_on_core(&options(), main).expect("io_uring works here")
}

pub fn filled(bytes: usize, seed: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes);
    for (place, byte) in buf.iter_mut().enumerate() {
        *byte = (place as u8).wrapping_mul(31).wrapping_add(seed);
    }
    buf
}

#[test]
fn time_passes_while_a_task_sleeps_and_tasks_run_beside_the_main_future() {
    on_core(|runtime| async move {
        let (done, wait) = tokio::sync::oneshot::channel();
        let before = runtime.now();
        let beside = runtime.clone();
        runtime.spawn(async move {
            beside.sleep(Nanos::from_millis(20)).await;
            done.send(beside.now()).expect("the main future waits");
        });
        let after = wait.await.expect("the task ends");
        assert!(after.saturating_sub(before) >= Nanos::from_millis(20));
        assert!(runtime.wall() > Nanos::from_secs(1_700_000_000));
        assert_ne!(runtime.random(), runtime.random());
    });
}

#[test]
#[should_panic(expected = "a task that fails")]
fn a_panic_in_a_task_takes_the_core_down() {
    on_core(|runtime| async move {
        runtime.spawn(async { panic!("a task that fails") });
        std::future::pending::<()>().await;
    });
}

#[test]
fn one_of_many_core_threads_has_one_processor_and_returns_what_its_main_future_returns() {
    let options = beaver_raft::io::uring::CoreOptions { threads: 4096, ..options() };
    let thread = beaver_raft::io::uring::start_core_thread(1, "core-1", options, |_| async {
        // The file is the kernel's own word on where this thread may run.
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux has it");
        let line = status.lines().find(|line| line.starts_with("Cpus_allowed_list")).expect("Linux has it");
        line.split_whitespace().last().expect("a value").to_owned()
    });
    let allowed = thread.expect("threads can be made").join().expect("no panic").expect("a ring");
    assert!(allowed.parse::<usize>().is_ok(), "one processor, not {allowed}");
}
