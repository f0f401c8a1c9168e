//! The fuzzer's bytes, read as decisions. Where they end, every further decision is zero, so that any input is a whole
//! one and a prefix of an interesting input stays interesting.

#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        first
    }

    /// One of `0..choices`.
    pub fn below(&mut self, choices: u8) -> u8 {
        self.byte() % choices.max(1)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// Mostly small, now and then anything: the numbers at which programs fail.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..240 => u64::from(small % 24),
            240..246 => u64::from(self.u16()),
            246..250 => self.u64(),
            250 => u64::from(u32::MAX),
            251 => u64::MAX,
            252 => u64::MAX - 1,
            253 => 1 << 53,
            254 => i64::MAX as u64,
            255 => 1 << 32,
        }
    }

    /// At most `most` of the bytes that are left.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(most.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn remainder(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }
}
