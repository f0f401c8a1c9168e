//! Links between nodes in a world in memory.

mod links;
mod memory;
mod refusals;
