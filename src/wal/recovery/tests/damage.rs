//! Damage is told from a torn write, and named.
