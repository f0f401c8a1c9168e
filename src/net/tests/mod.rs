//! Links between nodes in a world in memory.

mod chaos;
mod links;
mod memory;
mod refusals;
