//! The one source of chance: splitmix64. Small, fast, and the same on every machine.

#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut rng = Rng(seed ^ 0x6e6f_726e_2d73_696d);
        rng.next();
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A stream of its own: drawing more from it does not shift what others draw.
    pub fn fork(&mut self, name: u64) -> Rng {
        Rng::new(self.next() ^ mix(name))
    }

    /// 0..below; `below` must not be 0.
    pub fn below(&mut self, below: u64) -> u64 {
        assert!(below > 0, "nothing to draw from");
        self.next() % below
    }

    /// Both ends included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `n` times in a thousand.
    pub fn permille(&mut self, n: u64) -> bool {
        self.below(1000) < n
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// Mostly near `typical`, now and then many times that: a power of two longer with every halving of chance.
    pub fn heavy(&mut self, typical: u64) -> u64 {
        let doublings = self.next().leading_zeros().min(6);
        let most = typical.max(1) << doublings.saturating_sub(1);
        self.between(typical / 4, most)
    }
}

pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
