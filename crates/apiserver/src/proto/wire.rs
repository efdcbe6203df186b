//! Protobuf's wire format: fields in, fields out.

use super::ProtoError;

/// The content of one field.
#[derive(Debug, Clone, Copy)]
pub enum Wire<'a> {
    /// A number of variable length.
    Number(u64),
    /// Eight bytes.
    Eight(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    /// The bytes.
    ///
    /// # Errors
    /// When it is a number.
    pub fn bytes(self) -> Result<&'a [u8], ProtoError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtoError::Malformed),
        }
    }

    /// The number.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(self) -> Result<u64, ProtoError> {
        match self {
            Wire::Number(number) => Ok(number),
            _ => Err(ProtoError::Malformed),
        }
    }
}

/// Takes a number from the front.
///
/// # Errors
/// When it does not end.
pub fn varint(bytes: &mut &[u8]) -> Result<u64, ProtoError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(ProtoError::Malformed)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtoError::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], ProtoError> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(ProtoError::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

/// Calls `field` with each field of a message in turn.
///
/// # Errors
/// When the message is damaged, or the first of `field`.
pub fn each<'a>(
    mut bytes: &'a [u8],
    mut field: impl FnMut(u64, Wire<'a>) -> Result<(), ProtoError>,
) -> Result<(), ProtoError> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => field(tag >> 3, Wire::Number(varint(&mut bytes)?))?,
            1 => {
                let mut eight = [0; 8];
                eight.copy_from_slice(take(&mut bytes, 8)?);
                field(tag >> 3, Wire::Eight(u64::from_le_bytes(eight)))?;
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| ProtoError::Malformed)?;
                field(tag >> 3, Wire::Bytes(take(&mut bytes, length)?))?;
            }
            5 => drop(take(&mut bytes, 4)?),
            _ => return Err(ProtoError::Malformed),
        }
    }
    Ok(())
}

/// Appends a number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field with a number.
pub fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, value);
}

/// Appends a field with eight bytes.
pub fn put_eight(out: &mut Vec<u8>, field: u32, value: u64) {
    put_varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a field with bytes.
pub fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field with a message that `write` makes.
pub fn put_message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut message = Vec::new();
    write(&mut message);
    put_bytes(out, field, &message);
}
