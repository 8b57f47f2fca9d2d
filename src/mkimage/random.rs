//! Numbers that are the same for the same seed, for tests that can be repeated.

/// SplitMix64, whose first numbers differ well for seeds that lie close together.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^= number >> 31;
        // The upper half of the product of 64 by 64 bits.
        let wide = u128::from(number) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_repeat_and_spread() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let firsts: std::collections::BTreeSet<u64> =
            (0..20).map(|seed| Random::new(seed).below(10)).collect();
        assert!(firsts.len() > 6, "{firsts:?}");
        for number in 0..10 {
            let count = draw(0).iter().filter(|drawn| **drawn == number).count();
            assert!((60..140).contains(&count), "{number}: {count}");
        }
        assert_eq!(Random::new(1).below(0), 0);
    }
}
