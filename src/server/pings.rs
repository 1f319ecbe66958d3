//! Clients that ping too often are sent away, by the rule of Go's gRPC server, which operators set with
//! `--grpc-keepalive-min-time`: a ping that comes too soon after the one before is a strike, whatever the server says on a
//! stream takes the strikes back, and with the third the connection ends, with `too_many_pings`.
//!
//! `h2` answers pings by itself and tells nobody. So the frames are looked at as they pass, in both directions: their heads
//! only.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::time::Instant;

const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;

/// As many strikes are forgiven.
const STRIKES_MAX: u32 = 2;
/// Without a stream there is nothing to keep alive: a ping in so long is enough.
const IDLE_MIN: Duration = Duration::from_secs(2 * 3600);
/// GOAWAY with its length, its code ENHANCE_YOUR_CALM, and the words that Go's clients look for; the last stream is put in.
const GO_AWAY: [u8; 31] = *b"\0\0\x16\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo_many_pings";
const LAST_STREAM_AT: usize = 9;

/// A stream whose client's pings are counted.
#[derive(Debug)]
pub struct Pings<S> {
    stream: S,
    min: Duration,
    inbound: Heads,
    outbound: Heads,
    active: BTreeSet<u32>,
    last_stream: u32,
    last_ping: Option<Instant>,
    strikes: u32,
    /// The server said something on a stream since the last ping.
    has_spoken: bool,
    parting: Parting,
    heard: Rc<Cell<Instant>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    No,
    /// So much of the last words is said.
    Said(usize),
    Over,
}

impl<S> Pings<S> {
    /// `min` is the shortest interval that is accepted while there are streams.
    pub fn new(stream: S, min: Duration) -> Pings<S> {
        Pings {
            stream,
            min,
            inbound: Heads::after(PREFACE_BYTES),
            outbound: Heads::after(0),
            active: BTreeSet::new(),
            last_stream: 0,
            last_ping: None,
            strikes: 0,
            has_spoken: false,
            parting: Parting::No,
            heard: Rc::new(Cell::new(Instant::now())),
        }
    }

    /// When the client was last heard.
    pub fn heard(&self) -> Rc<Cell<Instant>> {
        Rc::clone(&self.heard)
    }

    fn listen(&mut self, bytes: &[u8], now: Instant) {
        self.heard.set(now);
        let mut inbound = std::mem::take(&mut self.inbound);
        inbound.pass(bytes, |head| match head.kind {
            HEADERS if head.stream > self.last_stream => {
                self.last_stream = head.stream;
                self.active.insert(head.stream);
            }
            RST_STREAM => {
                self.active.remove(&head.stream);
            }
            PING if head.flags & ACK == 0 => self.pinged(now),
            _ => {}
        });
        self.inbound = inbound;
    }

    fn pinged(&mut self, now: Instant) {
        let since = self.last_ping.replace(now).map(|last| now - last);
        if std::mem::take(&mut self.has_spoken) {
            self.strikes = 0;
            return;
        }
        let min = if self.active.is_empty() { IDLE_MIN } else { self.min };
        if since.is_some_and(|since| since < min) {
            self.strikes += 1;
        }
        if self.strikes > STRIKES_MAX && self.parting == Parting::No {
            self.parting = Parting::Said(0);
        }
    }

    fn say(&mut self, pieces: &[IoSlice<'_>], mut taken: usize) {
        let mut outbound = std::mem::take(&mut self.outbound);
        for piece in pieces {
            let len = taken.min(piece.len());
            taken -= len;
            outbound.pass(&piece[..len], |head| {
                self.has_spoken |= matches!(head.kind, DATA | HEADERS);
                let ends = matches!(head.kind, DATA | HEADERS) && head.flags & END_STREAM != 0;
                if ends || head.kind == RST_STREAM {
                    self.active.remove(&head.stream);
                }
            });
        }
        self.outbound = outbound;
    }
}

impl<S: AsyncWrite + Unpin> Pings<S> {
    /// The last words, between two frames.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut words = GO_AWAY;
        words[LAST_STREAM_AT..LAST_STREAM_AT + 4].copy_from_slice(&self.last_stream.to_be_bytes());
        while let Parting::Said(said) = self.parting {
            if said == words.len() {
                self.parting = Parting::Over;
                return Pin::new(&mut self.stream).poll_flush(cx);
            }
            let more = ready!(Pin::new(&mut self.stream).poll_write(cx, &words[said..]))?;
            self.parting = match more {
                0 => Parting::Over,
                more => Parting::Said(said + more),
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the connection is over. (In the middle of a frame it is not yet: the client could not read the words.)
    fn poll_is_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.parting != Parting::No && self.outbound.is_between() {
            ready!(self.poll_part(cx))?;
        }
        Poll::Ready(Ok(self.parting == Parting::Over))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Pings<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if ready!(this.poll_is_over(cx))? {
            // As if the client had gone.
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.listen(&buf.filled()[before..], Instant::now());
        if this.parting != Parting::No {
            buf.set_filled(before);
            // (Where a frame is half said, its rest brings us back.)
            if !ready!(this.poll_is_over(cx))? {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pings<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if ready!(this.poll_is_over(cx))? {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, pieces))?;
        this.say(pieces, taken);
        if this.parting != Parting::No && this.outbound.is_between() {
            // (The next read says the last words, and ends.)
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(taken))
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

#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Finds the heads of frames in bytes that come in any pieces.
#[derive(Debug, Default)]
struct Heads {
    /// Bytes that belong to what came before.
    skip: usize,
    head: [u8; HEAD_BYTES],
    have: usize,
}

impl Heads {
    fn after(skip: usize) -> Heads {
        Heads { skip, ..Heads::default() }
    }

    fn is_between(&self) -> bool {
        self.skip == 0 && self.have == 0
    }

    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
        loop {
            let skip = self.skip.min(bytes.len());
            self.skip -= skip;
            bytes = &bytes[skip..];
            let take = (HEAD_BYTES - self.have).min(bytes.len());
            if take == 0 {
                return;
            }
            self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            if self.have < HEAD_BYTES {
                return;
            }
            let [a, b, c, kind, flags, stream @ ..] = self.head;
            self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            self.have = 0;
            found(Head { kind, flags, stream: u32::from_be_bytes(stream) & !(1 << 31) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_one_frame() {
        let mut heads = Heads::after(0);
        let mut kinds = Vec::new();
        heads.pass(&GO_AWAY, |head| kinds.push(head.kind));
        assert_eq!((kinds, heads.is_between()), (vec![7], true));
    }

    fn frame(len: u8, kind: u8, flags: u8, stream: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, len, kind, flags, 0, 0, 0, stream];
        bytes.extend(std::iter::repeat_n(7, usize::from(len)));
        bytes
    }

    /// A connection after its preface; where `has_stream`, with a stream that the client has opened and nobody has ended.
    fn connected(min: Duration, has_stream: bool) -> (Pings<()>, Instant) {
        let (mut pings, start) = (Pings::new((), min), Instant::now());
        pings.listen(&[0; PREFACE_BYTES], start);
        if has_stream {
            pings.listen(&frame(0, HEADERS, 0, 1), start);
        }
        (pings, start)
    }

    /// How many pings are taken, of twenty so far apart.
    fn taken(min: Duration, has_stream: bool, apart: Duration) -> u32 {
        let (mut pings, start) = connected(min, has_stream);
        let is_taken = |n: &u32| {
            pings.listen(&frame(8, PING, 0, 0), start + apart * *n);
            pings.parting == Parting::No
        };
        (0..20).take_while(is_taken).count() as u32
    }

    #[test]
    fn the_distance_of_pings_counts() {
        const MIN: Duration = Duration::from_millis(20);
        const SHORT: Duration = Duration::from_nanos(1);
        assert_eq!(taken(MIN, true, MIN), 20);
        assert_eq!(taken(MIN, true, MIN - SHORT), 1 + STRIKES_MAX);
        assert_eq!(taken(MIN, false, MIN), 1 + STRIKES_MAX, "nothing to keep alive");
        assert_eq!(taken(MIN, false, IDLE_MIN - SHORT), 1 + STRIKES_MAX);
        assert_eq!(taken(MIN, false, IDLE_MIN), 20);
    }

    #[test]
    fn strikes_are_not_forgotten_by_waiting_but_by_an_answer() {
        const MIN: Duration = Duration::from_secs(5);
        let ping = frame(8, PING, 0, 0);
        let (mut pings, start) = connected(MIN, true);
        for seconds in [0, 1, 2, 60, 61] {
            assert_eq!(pings.parting, Parting::No, "before {seconds}");
            pings.listen(&ping, start + Duration::from_secs(seconds));
        }
        assert_eq!(pings.parting, Parting::Said(0));

        let (mut pings, start) = connected(MIN, true);
        let answer = frame(5, DATA, 0, 1);
        for seconds in 0..40 {
            pings.listen(&ping, start + Duration::from_secs(seconds));
            if seconds % 3 == 0 {
                pings.say(&[IoSlice::new(&answer)], answer.len());
            }
        }
        assert_eq!(pings.parting, Parting::No);
    }

    #[test]
    fn heads_are_found_whatever_the_pieces() {
        let frames = [(5, DATA, 1), (0, HEADERS, 3), (8, PING, 0)];
        let frames = frames.map(|(len, kind, stream)| frame(len, kind, END_STREAM, stream));
        let all = [vec![0; 3], frames.concat()].concat();
        for size in 1..all.len() {
            let mut heads = Heads::after(3);
            let mut found = Vec::new();
            for piece in all.chunks(size) {
                heads.pass(piece, |head| found.push((head.kind, head.stream)));
            }
            assert_eq!(found, [(DATA, 1), (HEADERS, 3), (PING, 0)]);
            assert!(heads.is_between());
        }
    }
}
