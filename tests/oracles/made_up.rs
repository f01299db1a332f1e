//! Made-up texts: almost right, in many ways.

/// Numbers that look random and are the same in every run (splitmix64).
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    /// So many characters out of these, each of which is one byte.
    pub fn text(&mut self, alphabet: &str, length: usize) -> String {
        let alphabet = alphabet.as_bytes();
        let one = |_| char::from(alphabet[self.below(alphabet.len())]);
        (0..length).map(one).collect()
    }

    /// The text with a few faults: characters lost, doubled, swapped, in upper case, or put in out of the alphabet.
    pub fn spoil(&mut self, text: &str, alphabet: &[&str]) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        for _ in 0..self.between(1, 3) {
            if chars.is_empty() {
                break;
            }
            let (at, other) = (self.below(chars.len()), self.below(chars.len()));
            match self.below(7) {
                0 => drop(chars.remove(at)),
                1 => chars.insert(at, chars[at]),
                2 => chars.swap(at, other),
                3 => chars[at] = chars[at].to_ascii_uppercase(),
                4 => chars.truncate(at),
                5 => drop(chars.splice(at..at, self.pick(alphabet).chars())),
                _ => drop(chars.splice(at..=at, self.pick(alphabet).chars())),
            }
        }
        chars.into_iter().collect()
    }
}

/// Every text of up to so many letters.
pub fn all_texts(alphabet: &[&str], longest: u32) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut start = 0;
    for _ in 0..longest {
        let end = all.len();
        for index in start..end {
            for letter in alphabet {
                all.push(format!("{}{letter}", all[index]));
            }
        }
        start = end;
    }
    all
}
