//! Large copies in pieces. From 2,112 bytes on, glibc's memcpy takes an instruction that is several times slower than its
//! loop on some processors (`rep movsb` on AMD's Zen 3, until glibc 2.39).

/// What is copied at once.
pub const PIECE: usize = 2_048;

/// Appends bytes.
pub fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len());
    bytes.chunks(PIECE).for_each(|piece| out.extend_from_slice(piece));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_come_whole() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 7] {
            let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
            let mut out = b"before ".to_vec();
            append(&mut out, &bytes);
            assert_eq!(out, [b"before ", &bytes[..]].concat());
        }
    }
}
