//! The tubes that a connection watches. Never empty, bounded in memory, without duplicates.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Bound of a watch list: the names and a fixed charge for each.
const WATCHED_BYTES_MAX: usize = 1 << 20;

/// What a name costs beyond its length: its places in the list and in the index, and an allocation.
const NAME_OVERHEAD_BYTES: usize = 128;

#[derive(Debug)]
pub struct WatchList {
    names: Vec<Bytes>,
    /// Name to its place in `names`.
    places: BTreeMap<Bytes, usize>,
    bytes: usize,
}

/// What became of a wish to ignore a tube.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    Removed,
    WasNotWatched,
    /// It is the only one, and stays.
    Last,
}

impl WatchList {
    #[must_use]
    pub fn new(first: Bytes) -> WatchList {
        let bytes = cost(&first);
        WatchList { places: BTreeMap::from([(first.clone(), 0)]), names: vec![first], bytes }
    }

    #[must_use]
    pub fn names(&self) -> &[Bytes] {
        &self.names
    }

    #[must_use]
    pub fn contains(&self, name: &Bytes) -> bool {
        self.places.contains_key(name)
    }

    /// Adds a name that is not in the list, unless the list is full.
    #[must_use]
    pub fn add(&mut self, name: Bytes) -> bool {
        if self.bytes + cost(&name) > WATCHED_BYTES_MAX {
            return false;
        }
        self.bytes += cost(&name);
        let before = self.places.insert(name.clone(), self.names.len());
        assert!(before.is_none(), "a tube is watched once");
        self.names.push(name);
        true
    }

    /// Removes a name. The last name of the list takes its place, as in the original: `list-tubes-watched` shows it.
    pub fn ignore(&mut self, name: &Bytes) -> Ignored {
        let Some(&place) = self.places.get(name) else { return Ignored::WasNotWatched };
        if self.names.len() == 1 {
            return Ignored::Last;
        }
        self.places.remove(name);
        self.bytes -= cost(name);
        self.names.swap_remove(place);
        if let Some(moved) = self.names.get(place) {
            self.places.insert(moved.clone(), place);
        }
        Ignored::Removed
    }
}

fn cost(name: &Bytes) -> usize {
    name.len() + NAME_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Bytes {
        Bytes::copy_from_slice(name.as_bytes())
    }

    #[test]
    fn the_last_tube_takes_the_place_of_an_ignored_one() {
        let mut list = WatchList::new(name("default"));
        for tube in ["a", "b", "c"] {
            assert!(list.add(name(tube)));
        }
        assert_eq!(list.ignore(&name("default")), Ignored::Removed);
        assert_eq!(list.names(), ["c", "a", "b"]);
        assert_eq!(list.ignore(&name("a")), Ignored::Removed);
        assert_eq!(list.names(), ["c", "b"]);
        assert_eq!(list.ignore(&name("a")), Ignored::WasNotWatched);
        assert_eq!(list.ignore(&name("b")), Ignored::Removed);
        assert_eq!(list.ignore(&name("c")), Ignored::Last);
    }

    #[test]
    fn a_list_is_bounded_and_room_comes_back() {
        let mut list = WatchList::new(name("default"));
        let mut watched = 0;
        while list.add(name(&format!("{watched:0200}"))) {
            watched += 1;
        }
        assert!((2000..4000).contains(&watched));
        assert_eq!(list.ignore(&name("default")), Ignored::Removed);
        assert!(list.add(name("small")));
    }
}
