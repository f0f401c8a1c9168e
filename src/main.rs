//! The program: an allocator and a command line.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    beaver_raft::cli::main(std::env::args_os())
}
