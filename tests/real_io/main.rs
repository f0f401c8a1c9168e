//! The real runtime on real files, sockets and threads. Nothing here asserts how fast something is.

mod disk;
mod full_disk;
mod threads;
mod wire;
mod world;
