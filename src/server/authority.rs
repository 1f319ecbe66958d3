//! Old Go clients (etcdctl 3.4 for `--cluster`, and what was built with its library) send the whole URL as the
//! pseudo-header `:authority`: `http://127.0.0.1:2379`. Go's server takes that, `h2` resets the stream. Nothing here reads
//! the authority, so on its way in `http://` becomes `httpj--`: as long in plain text and, to the bit, in HPACK's Huffman
//! code, so that no length and no dynamic table changes.
//!
//! Only header blocks are looked at, and a connection whose first one has no such authority is left alone from then on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Index 1 of HPACK's static table.
const AUTHORITY: usize = 1;

const PLAIN: (&[u8], &[u8]) = (b"http://", b"httpj--");
/// The same in Huffman code: 41 bits. The last bit, the highest of the sixth byte, is 0 in both.
const HUFFMAN: (&[u8], &[u8]) = (&[0x9d, 0x29, 0xae, 0xe3, 0x0c], &[0x9d, 0x29, 0xaf, 0xa2, 0xcb]);

/// A stream whose header blocks `h2` takes.
#[derive(Debug)]
pub struct Authorities<S> {
    stream: S,
    scan: Scan,
    /// The beginning of an authority whose rest has not come yet.
    held: Vec<u8>,
}

impl<S> Authorities<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, scan: Scan::default(), held: Vec::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Authorities<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.scan.at == At::Off && this.held.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        if buf.remaining() <= this.held.len() {
            // No room to look further: it goes as it came, and `h2` has its way.
            this.scan.at = At::Off;
            let fits = buf.remaining();
            buf.put_slice(&this.held[..fits]);
            this.held.drain(..fits);
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        loop {
            buf.put_slice(&this.held);
            let before = buf.filled().len();
            let result = Pin::new(&mut this.stream).poll_read(cx, buf);
            if result.is_pending() {
                buf.set_filled(start);
            }
            ready!(result)?;
            this.held.clear();
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            let hold = this.scan.scan(&mut buf.filled_mut()[start..]);
            let end = buf.filled().len() - hold;
            this.held.extend_from_slice(&buf.filled()[end..]);
            buf.set_filled(end);
            if end > start {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Authorities<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[derive(Debug, Default)]
struct Scan {
    at: At,
    /// Of the frame: bytes of its payload that are left, its type and flags.
    left: usize,
    kind: u8,
    flags: u8,
    block: Block,
    /// An authority was rewritten on this connection.
    has_found: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum At {
    Preface(usize),
    FrameHeader(usize),
    /// Pad length and priority, in front of the block.
    Front(usize),
    Block,
    OtherFrame,
    Off,
}

impl Default for At {
    fn default() -> Self {
        At::Preface(0)
    }
}

/// Where in a header block, between or inside fields.
#[derive(Debug, Default, Clone, Copy)]
enum Block {
    #[default]
    Field,
    /// The rest of an integer, and what it is.
    Integer {
        value: usize,
        shift: u32,
        what: Integer,
    },
    /// A string's first byte comes; `strings` are to come, of the field with this name.
    StringStart {
        strings: u8,
        name: usize,
    },
    String {
        left: usize,
        strings: u8,
        name: usize,
        huffman: bool,
        is_first_byte: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Integer {
    /// An indexed field or a table size: nothing follows.
    Alone,
    /// The name's index in a literal field.
    Name,
    Length {
        strings: u8,
        name: usize,
        huffman: bool,
    },
}

impl Scan {
    /// Goes over bytes as they come, rewrites in place, and says how many at the end must wait for more.
    fn scan(&mut self, bytes: &mut [u8]) -> usize {
        let mut i = 0;
        while i < bytes.len() {
            match self.at {
                At::Off => return 0,
                At::Preface(have) => {
                    self.at = match bytes[i] == PREFACE[have] {
                        true if have + 1 == PREFACE.len() => At::FrameHeader(0),
                        true => At::Preface(have + 1),
                        false => At::Off,
                    };
                    i += 1;
                }
                At::FrameHeader(have) => {
                    self.frame_header(have, bytes[i]);
                    i += 1;
                }
                At::OtherFrame => {
                    let skip = self.left.min(bytes.len() - i);
                    i += skip;
                    self.take(skip);
                }
                At::Front(front) => {
                    self.at = if front == 1 { At::Block } else { At::Front(front - 1) };
                    i += 1;
                    self.take(1);
                }
                At::Block => {
                    if !self.authority(&mut bytes[i..]) {
                        return bytes.len() - i;
                    }
                    self.block_byte(bytes[i]);
                    i += 1;
                    self.take(1);
                }
            }
        }
        0
    }

    fn frame_header(&mut self, have: usize, byte: u8) {
        match have {
            0 => self.left = usize::from(byte) << 16,
            1 => self.left |= usize::from(byte) << 8,
            2 => self.left |= usize::from(byte),
            3 => self.kind = byte,
            4 => self.flags = byte,
            _ => {}
        }
        self.at = At::FrameHeader(have + 1);
        if have < 8 {
            return;
        }
        let front =
            usize::from(self.flags & PADDED != 0) + 5 * usize::from(self.flags & PRIORITY != 0);
        self.at = match self.kind {
            HEADERS if front > 0 => At::Front(front),
            HEADERS | CONTINUATION => At::Block,
            _ => At::OtherFrame,
        };
        if self.kind == HEADERS {
            self.block = Block::Field;
        }
        self.take(0);
    }

    /// `count` bytes of the payload are done; with the last of them the frame is.
    fn take(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        if self.left > 0 {
            return;
        }
        let is_block = matches!(self.kind, HEADERS | CONTINUATION);
        let ends = is_block && self.flags & END_HEADERS != 0;
        self.at = if ends && !self.has_found { At::Off } else { At::FrameHeader(0) };
    }

    /// Rewrites an authority that begins here. False: it may be one, and the rest is wanted first.
    fn authority(&mut self, bytes: &mut [u8]) -> bool {
        let Block::String { left, strings: 1, name: AUTHORITY, huffman, is_first_byte: true } =
            self.block
        else {
            return true;
        };
        let (from, to) = if huffman { HUFFMAN } else { PLAIN };
        let wanted = from.len() + usize::from(huffman);
        if left < wanted || self.left < wanted {
            return true;
        }
        let have = bytes.len().min(from.len());
        if bytes[..have] != from[..have] {
            return true;
        }
        if bytes.len() < wanted {
            return false;
        }
        if !huffman || bytes[from.len()] & 0x80 == 0 {
            bytes[..to.len()].copy_from_slice(to);
            self.has_found = true;
        }
        true
    }

    fn block_byte(&mut self, byte: u8) {
        match self.block {
            Block::Field => {
                let (bits, what) = match byte.leading_zeros() {
                    0 => (7, Integer::Alone),
                    1 => (6, Integer::Name),
                    2 => (5, Integer::Alone),
                    _ => (4, Integer::Name),
                };
                self.integer(byte, bits, what);
            }
            Block::Integer { value, shift, what } => {
                let more = usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                let value = value.saturating_add(more);
                self.block = match byte & 0x80 {
                    0 => after(value, what),
                    _ => Block::Integer { value, shift: shift + 7, what },
                };
            }
            Block::StringStart { strings, name } => {
                self.integer(byte, 7, Integer::Length { strings, name, huffman: byte >= 0x80 });
            }
            Block::String { left, strings, name, huffman, .. } => {
                self.block = match left {
                    0 | 1 => string_end(strings, name),
                    _ => {
                        let left = left - 1;
                        Block::String { left, strings, name, huffman, is_first_byte: false }
                    }
                };
            }
        }
    }

    /// The first byte of an integer, in its lowest `bits`.
    fn integer(&mut self, byte: u8, bits: u32, what: Integer) {
        let most = (1usize << bits) - 1;
        let value = usize::from(byte) & most;
        self.block = match value == most {
            true => Block::Integer { value, shift: 0, what },
            false => after(value, what),
        };
    }
}

fn after(value: usize, what: Integer) -> Block {
    match what {
        Integer::Alone => Block::Field,
        Integer::Name if value == 0 => Block::StringStart { strings: 2, name: 0 },
        Integer::Name => Block::StringStart { strings: 1, name: value },
        Integer::Length { strings, name, .. } if value == 0 => string_end(strings, name),
        Integer::Length { strings, name, huffman } => {
            Block::String { left: value, strings, name, huffman, is_first_byte: true }
        }
    }
}

fn string_end(strings: u8, name: usize) -> Block {
    match strings {
        2 => Block::StringStart { strings: 1, name },
        _ => Block::Field,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `127.0.0.1:2379` behind `http://`, in Huffman code and padded with ones.
    fn huffman_url() -> Vec<u8> {
        let mut bits = String::from("10011101001010011010111011100011000011000");
        for c in "127.0.0.1:2379".chars() {
            bits += match c {
                '0' => "00000",
                '1' => "00001",
                '2' => "00010",
                '3' => "011001",
                '7' => "011101",
                '9' => "011111",
                '.' => "010111",
                _ => "1011100",
            };
        }
        bits += &"1".repeat((8 - bits.len() % 8) % 8);
        let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
        (0..bits.len()).step_by(8).map(byte).collect()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        out.extend_from_slice(payload);
        out
    }

    /// POST, a field with a new name, and this authority.
    fn block(huffman: bool, authority: &[u8]) -> Vec<u8> {
        let mut out = vec![0x83, 0x40, 2, b't', b'e', 3, b'a', b'b', b'c', 0x41];
        out.push(authority.len() as u8 | if huffman { 0x80 } else { 0 });
        out.extend_from_slice(authority);
        out
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut out = PREFACE.to_vec();
        out.extend(frame(4, 0, &[0; 6]));
        frames.iter().for_each(|f| out.extend_from_slice(f));
        out
    }

    /// What comes out, when it comes in pieces of every size.
    fn through(bytes: &[u8]) -> Vec<u8> {
        let mut outs = (1..=bytes.len()).map(|size| {
            let (mut scan, mut out, mut held) = (Scan::default(), Vec::new(), Vec::new());
            for piece in bytes.chunks(size) {
                let mut piece = [std::mem::take(&mut held), piece.to_vec()].concat();
                let hold = scan.scan(&mut piece);
                held = piece.split_off(piece.len() - hold);
                out.extend(piece);
            }
            out.extend(held);
            out
        });
        let first = outs.next().unwrap();
        assert!(outs.all(|out| out == first));
        first
    }

    #[test]
    fn a_url_becomes_a_name_as_long() {
        let url = b"http://127.0.0.1:2379";
        let before = connection(&[frame(HEADERS, END_HEADERS, &block(false, url))]);
        let after =
            connection(&[frame(HEADERS, END_HEADERS, &block(false, b"httpj--127.0.0.1:2379"))]);
        assert_eq!(through(&before), after);
    }

    #[test]
    fn a_url_in_huffman_code_too_behind_padding_and_priority() {
        let mut name = huffman_url();
        name[..5].copy_from_slice(HUFFMAN.1);
        let payload =
            |authority: &[u8]| [&[2, 0, 0, 0, 0, 0][..], &block(true, authority), &[0, 0]].concat();
        let flags = END_HEADERS | PADDED | PRIORITY;
        let before = connection(&[frame(HEADERS, flags, &payload(&huffman_url()))]);
        assert_eq!(through(&before), connection(&[frame(HEADERS, flags, &payload(&name))]));
    }

    #[test]
    fn in_every_block_of_such_a_client() {
        let (url, name) = (b"http://a", b"httpj--a");
        let frames = |authority: &[u8]| {
            let data = frame(0, 0, b"\x41\x08http://a");
            let split = block(false, authority);
            let first = frame(HEADERS, 0, &split[..4]);
            let rest = frame(CONTINUATION, END_HEADERS, &split[4..]);
            let whole = frame(HEADERS, END_HEADERS, &split);
            connection(&[whole, data, first, rest])
        };
        assert_eq!(through(&frames(url)), frames(name));
    }

    #[test]
    fn nothing_else_is_touched() {
        let longer = [HUFFMAN.0, &[0x80; 3]].concat();
        for (huffman, authority) in
            [(false, &b"http"[..]), (false, b"http:8080"), (false, b"httpbin:80"), (true, &longer)]
        {
            let data = frame(0, 0, b"\x41\x08http://a");
            let other = frame(HEADERS, END_HEADERS, &block(huffman, authority));
            let bytes = connection(&[other, data]);
            assert_eq!(through(&bytes), bytes);
        }
        let http1 = b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n";
        assert_eq!(through(http1), http1);
    }
}
