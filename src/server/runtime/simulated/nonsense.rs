//! Bytes that become others between two members, where whoever reads them can tell.
//!
//! Etcd's streams between members have neither checksum nor marks, so that most damage gives other messages that are as good
//! as the true ones. No cluster survives that, and nobody is asked to: TCP's checksum, or TLS, is all there is against
//! it. (Nor a length that is wrong and within the limit: what follows is taken for the rest of that message.) But where the
//! bytes make no sense, the reader must hang up, and ask again on a new connection.

use bytes::{BufMut, Bytes, BytesMut};

use super::connection::Asked;

/// What a reader gets instead, at the head of a connection or between two messages of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonsense {
    /// As many bytes that begin like nothing that there is: no HTTP, no length of a chunk, no message.
    Noise(u64),
    /// A message longer than any may be.
    TooLong,
    /// A kind of message that does not exist.
    UnknownKind,
    /// A message of the right length, in no protobuf.
    NoProtobuf,
}

impl Nonsense {
    /// One of them.
    pub fn new(draw: u64) -> Nonsense {
        match draw % 4 {
            0 => Nonsense::TooLong,
            1 => Nonsense::UnknownKind,
            2 => Nonsense::NoProtobuf,
            _ => Nonsense::Noise(draw),
        }
    }

    /// What arrives instead of `data`, in two pieces; `asked`: in a stream of such messages. (Everywhere else there is only noise.)
    ///
    /// What is put in between is a chunk, as HTTP/1.1 has it. The data of a turn are a chunk, too; if they come in several pieces,
    /// then the chunk's head is where a message or the end of a chunk should be, and is none of them.
    pub(super) fn of(self, asked: Option<Asked>, data: &[u8]) -> (Bytes, Bytes) {
        let draw = match (self, asked) {
            (Nonsense::Noise(draw), _) => draw,
            (_, None) => data.len() as u64,
            (_, Some(asked)) => return (chunk(&self.message(asked)), Bytes::copy_from_slice(data)),
        };
        let mut noise = vec![0xff; data.len()];
        let mut state = draw;
        for byte in noise.iter_mut().skip(8) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = (state >> 56) as u8;
        }
        (noise.into(), Bytes::new())
    }

    fn message(self, asked: Asked) -> Bytes {
        let mut out = BytesMut::new();
        let is_append = asked == Asked::Appends;
        match self {
            Nonsense::UnknownKind if is_append => out.put_u8(9),
            // (The number of a kind, in a message that says nothing else.)
            Nonsense::UnknownKind => {
                out.put_u64(2);
                out.put_slice(&[0x08, 0x7f]);
            }
            Nonsense::NoProtobuf => {
                if is_append {
                    out.put_u8(2);
                }
                out.put_u64(12);
                out.put_bytes(0xff, 12);
            }
            Nonsense::TooLong | Nonsense::Noise(_) => {
                if is_append {
                    out.put_u8(1);
                }
                out.put_u64(1 << 40);
            }
        }
        out.freeze()
    }
}

fn chunk(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(format!("{:x}\r\n", message.len()).as_bytes());
    out.put_slice(message);
    out.put_slice(b"\r\n");
    out.freeze()
}
