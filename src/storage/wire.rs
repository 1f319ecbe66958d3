//! The few rules of the protobuf wire format that the WAL and `.snap` files need: varints and length-delimited
//! fields. Messages with more than a handful of fields are somebody else's business and pass through as bytes.

use bytes::{BufMut, Bytes};

/// One field of a message. 32- and 64-bit fixed fields are skipped by the reader: no message here has them.
pub(crate) enum Field {
    Varint(u32, u64),
    Bytes(u32, Bytes),
}

/// The bytes were no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Fields of a message in the order they stand in it.
pub(crate) struct Fields {
    rest: Bytes,
}

impl Fields {
    pub(crate) fn of(message: Bytes) -> Fields {
        Fields { rest: message }
    }

    /// The next field, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Field>, Malformed> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let key = self.varint()?;
            let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
            if number == 0 {
                return Err(Malformed);
            }
            match key & 7 {
                0 => return Ok(Some(Field::Varint(number, self.varint()?))),
                1 => self.skip(8)?,
                2 => {
                    let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                    if len > self.rest.len() {
                        return Err(Malformed);
                    }
                    return Ok(Some(Field::Bytes(number, self.rest.split_to(len))));
                }
                5 => self.skip(4)?,
                _ => return Err(Malformed),
            }
        }
    }

    fn skip(&mut self, len: usize) -> Result<(), Malformed> {
        if len > self.rest.len() {
            return Err(Malformed);
        }
        let _ = self.rest.split_to(len);
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte holds the one remaining bit.
            if at == 9 && *byte > 1 {
                return Err(Malformed);
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                let _ = self.rest.split_to(at + 1);
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

pub(crate) fn varint_len(value: u64) -> usize {
    // One byte per started group of seven bits; zero takes one byte too.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub(crate) fn put_varint_field(out: &mut impl BufMut, number: u8, value: u64) {
    out.put_u8(number << 3);
    put_varint(out, value);
}

pub(crate) fn put_bytes_field(out: &mut impl BufMut, number: u8, value: &[u8]) {
    out.put_u8(number << 3 | 2);
    put_varint(out, value.len() as u64);
    out.put_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_know_their_length() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, (1 << shift) | 1, u64::MAX] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value:#x}");
                let mut fields = Fields::of(Bytes::from(out));
                assert_eq!(fields.varint(), Ok(value));
                assert!(fields.rest.is_empty());
            }
        }
    }

    #[test]
    fn overlong_and_cut_varints_are_refused() {
        for bytes in [
            &[0x80u8; 3][..],
            &[0xff; 11],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(Fields::of(Bytes::copy_from_slice(bytes)).varint(), Err(Malformed));
        }
    }
}
