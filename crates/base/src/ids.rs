//! Identifiers: object UIDs and the short random suffixes of generated names.

use fastrand::Rng;

/// The letters Kubernetes uses in generated names: no vowels, no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Makes a random UUID (version 4) in its usual text form.
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Makes a suffix of `length` letters for a generated name (Kubernetes uses five).
pub fn suffix(rng: &mut Rng, length: usize) -> String {
    (0..length)
        .map(|_| ALPHABET[rng.usize(..ALPHABET.len())] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_repeatable_by_seed_and_of_the_alphabet() {
        let (mut a, mut b) = (Rng::with_seed(7), Rng::with_seed(7));
        let text = suffix(&mut a, 5);
        assert_eq!(text, suffix(&mut b, 5));
        assert!(text.bytes().all(|letter| ALPHABET.contains(&letter)));
    }
}
