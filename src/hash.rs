//! A short hash that tells one text from another; children carry it in annotations and names.

use std::fmt;

use sha2::{Digest, Sha256};

/// The first half of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hash(u128);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        let half = digest.iter().take(16);
        Self(half.fold(0, |hash, byte| hash << 8 | u128::from(*byte)))
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || text.starts_with('+') {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

/// In hexadecimal, 32 digits.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash = Hash::of(b"a");
        assert_eq!(hash.to_string(), "ca978112ca1bbdcafac231b39a23dc4d");
        assert_eq!(Hash::parse(&hash.to_string()), Some(hash));
        for text in [
            "",
            "ca97",
            "+a978112ca1bbdcafac231b39a23dc4d",
            "xa978112ca1bbdcafac231b39a23dc4d",
        ] {
            assert_eq!(Hash::parse(text), None, "{text}");
        }
    }
}
