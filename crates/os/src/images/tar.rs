//! Writes tar archives (POSIX ustar) whose bytes depend on their content alone: owner 0, time 0.

const BLOCK: usize = 512;

/// An archive being written.
#[derive(Debug, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// Adds a folder.
    pub(super) fn folder(&mut self, path: &str) {
        self.header(&format!("{path}/"), 0o755, 0, b'5', "");
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.header(path, mode, content.len(), b'0', "");
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.header(path, 0o777, 0, b'2', target);
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8, target: &str) {
        let mut header = [0u8; BLOCK];
        put(&mut header[..100], path.as_bytes());
        put(&mut header[100..108], format!("{mode:07o}").as_bytes());
        put(&mut header[108..116], b"0000000");
        put(&mut header[116..124], b"0000000");
        put(&mut header[124..136], format!("{size:011o}").as_bytes());
        put(&mut header[136..148], b"00000000000");
        header[148..156].fill(b' ');
        header[156] = kind;
        put(&mut header[157..257], target.as_bytes());
        put(&mut header[257..265], b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header[148..156], format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(BLOCK);
        self.bytes.resize(length, 0);
    }
}

/// Names here are ours and short; a longer one would be cut.
fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}
