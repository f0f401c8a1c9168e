//! Which shard a tube belongs to: a fixed hash of its name, the same on every node and in every release. It must
//! never change for a given name and number of shards: jobs would be looked for where they are not.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::ShardId;

/// The seed of the tube hash: the bytes "BeavTube". Part of the data format.
pub const TUBE_HASH_SEED: u64 = u64::from_be_bytes(*b"BeavTube");

/// The shard of a tube: seeded XXH3-64 of its routing key, modulo the number of shards.
#[must_use]
pub fn shard_of_tube(name: &[u8], shards: u16) -> ShardId {
    assert!(shards > 0, "a cluster has at least one shard");
    if shards == 1 {
        return ShardId(0);
    }
    let shard = xxh3_64_with_seed(routing_key(name), TUBE_HASH_SEED) % u64::from(shards);
    ShardId(u16::try_from(shard).expect("a remainder of a u16 fits a u16"))
}

/// The part of a name that is hashed: what stands between the first `{` and the next `}` behind it, so that tubes
/// can be kept together by choice; the whole name where there is no such part or it is empty.
#[must_use]
pub fn routing_key(name: &[u8]) -> &[u8] {
    let part = name.iter().position(|&byte| byte == b'{').and_then(|open| {
        let inner = &name[open + 1..];
        inner.iter().position(|&byte| byte == b'}').map(|end| &inner[..end])
    });
    match part {
        Some(part) if !part.is_empty() => part,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_part_in_braces_or_else_the_whole_name() {
        assert_eq!(routing_key(b"orders"), b"orders");
        assert_eq!(routing_key(b"{orders}.new"), b"orders");
        assert_eq!(routing_key(b"a{b}c{d}"), b"b");
        assert_eq!(routing_key(b"a{}b{c}"), b"a{}b{c}");
        assert_eq!(routing_key(b"a{b"), b"a{b");
        assert_eq!(routing_key(b"a}b{c"), b"a}b{c");
        assert_eq!(routing_key(b"{{x}}"), b"{x");
    }

    #[test]
    fn tubes_with_the_same_key_share_a_shard() {
        for shards in [1, 2, 3, 8, 1000] {
            assert_eq!(shard_of_tube(b"{orders}.new", shards), shard_of_tube(b"{orders}.old", shards));
            assert_eq!(shard_of_tube(b"{orders}.new", shards), shard_of_tube(b"orders", shards));
        }
    }

    #[test]
    fn tubes_spread_over_all_shards() {
        let mut tubes_of = [0u32; 4];
        for n in 0..4000 {
            tubes_of[usize::from(shard_of_tube(format!("tube-{n}").as_bytes(), 4).0)] += 1;
        }
        assert!(tubes_of.iter().all(|&tubes| (900..1100).contains(&tubes)), "{tubes_of:?}");
    }

    #[test]
    fn the_hash_of_a_name_never_changes() {
        assert_eq!(shard_of_tube(b"default", 1000), ShardId(531));
        assert_eq!(shard_of_tube(b"orders", 1000), ShardId(482));
    }
}
