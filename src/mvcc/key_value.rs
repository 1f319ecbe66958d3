//! `mvccpb.KeyValue`, by hand: the stored form of a change must be byte-identical on all members (HashKV covers it),
//! and a list must not decode what it only passes on.

use std::fmt;

use bytes::Bytes;

/// One version of a key. A tombstone has only the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    /// Main revision of the put that began this life of the key.
    pub create_revision: i64,
    /// Main revision of this put.
    pub mod_revision: i64,
    /// Puts since the creation, from 1.
    pub version: i64,
    pub value: Bytes,
    /// The attached lease, 0 for none.
    pub lease: i64,
}

/// Bytes that are not a `KeyValue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecError {
    pub offset: usize,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a KeyValue at byte {}", self.offset)
    }
}

impl std::error::Error for CodecError {}

impl KeyValue {
    /// Canonical encoding: ascending field numbers, defaults left out.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.key.len() + self.value.len() + 48);
        put_bytes(&mut out, 0x0a, &self.key);
        put_int(&mut out, 0x10, self.create_revision);
        put_int(&mut out, 0x18, self.mod_revision);
        put_int(&mut out, 0x20, self.version);
        put_bytes(&mut out, 0x2a, &self.value);
        put_int(&mut out, 0x30, self.lease);
        Bytes::from(out)
    }

    /// Slices `key` and `value` out of the input without copying. Unknown fields are skipped.
    pub fn decode(bytes: &Bytes) -> Result<KeyValue, CodecError> {
        let mut kv = KeyValue::default();
        visit(bytes, |field, value| match (field, value) {
            (1, Field::Range(start, end)) => kv.key = bytes.slice(start..end),
            (2, Field::Int(n)) => kv.create_revision = n,
            (3, Field::Int(n)) => kv.mod_revision = n,
            (4, Field::Int(n)) => kv.version = n,
            (5, Field::Range(start, end)) => kv.value = bytes.slice(start..end),
            (6, Field::Int(n)) => kv.lease = n,
            _ => {}
        })?;
        Ok(kv)
    }

    /// Only the key, for scans that pass most records by.
    pub fn decode_key(bytes: &Bytes) -> Result<Bytes, CodecError> {
        let mut key = Bytes::new();
        visit(bytes, |field, value| {
            if let (1, Field::Range(start, end)) = (field, value) {
                key = bytes.slice(start..end);
            }
        })?;
        Ok(key)
    }
}

enum Field {
    Int(i64),
    Range(usize, usize),
}

fn visit(bytes: &[u8], mut each: impl FnMut(u64, Field)) -> Result<(), CodecError> {
    let mut at = 0;
    while at < bytes.len() {
        let (tag, next) = varint(bytes, at)?;
        let field = tag >> 3;
        match tag & 7 {
            0 => {
                let (value, next) = varint(bytes, next)?;
                each(field, Field::Int(value.cast_signed()));
                at = next;
            }
            2 => {
                let (len, next) = varint(bytes, next)?;
                let left = (bytes.len() - next) as u64;
                if len > left {
                    return Err(CodecError { offset: at });
                }
                let end = next + len as usize;
                each(field, Field::Range(next, end));
                at = end;
            }
            1 if bytes.len() - next >= 8 => at = next + 8,
            5 if bytes.len() - next >= 4 => at = next + 4,
            _ => return Err(CodecError { offset: at }),
        }
        if field == 0 {
            return Err(CodecError { offset: at });
        }
    }
    Ok(())
}

fn varint(bytes: &[u8], start: usize) -> Result<(u64, usize), CodecError> {
    let mut value = 0u64;
    for (i, byte) in bytes[start..].iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, start + i + 1));
        }
    }
    Err(CodecError { offset: start })
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_int(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        put_varint(out, value.cast_unsigned());
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_put_has_etcds_bytes() {
        let kv = KeyValue {
            key: Bytes::from_static(b"foo"),
            create_revision: 2,
            mod_revision: 2,
            version: 1,
            value: Bytes::from_static(b"bar"),
            lease: 0,
        };
        let want = [
            0x0a, 0x03, 0x66, 0x6f, 0x6f, 0x10, 0x02, 0x18, 0x02, 0x20, 0x01, 0x2a, 0x03, 0x62,
            0x61, 0x72,
        ];
        assert_eq!(&kv.encode()[..], &want);
    }

    proptest! {
        #[test]
        fn round_trip(key: Vec<u8>, value: Vec<u8>, n: [i64; 4]) {
            let kv = KeyValue {
                key: key.into(), create_revision: n[0], mod_revision: n[1], version: n[2],
                value: value.into(), lease: n[3],
            };
            let bytes = kv.encode();
            prop_assert_eq!(KeyValue::decode_key(&bytes).unwrap(), kv.key.clone());
            prop_assert_eq!(KeyValue::decode(&bytes), Ok(kv));
        }

        #[test]
        fn any_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = KeyValue::decode(&Bytes::from(bytes));
        }
    }
}
