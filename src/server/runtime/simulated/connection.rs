//! One connection: bytes on their way in two directions, and what became of its ends.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::nonsense::Nonsense;
use super::{Fate, Host, now};

#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End,
    Reset,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Direction {
    pub from: Host,
    pub to: Host,
    /// With the true time of arrival, unless the link holds it.
    pub pieces: VecDeque<(Option<Duration>, Piece)>,
    pub bytes: usize,
    pub last_arrival: Duration,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    /// Pieces of data that were ever sent, and that were read to their end.
    pub sent: u64,
    pub taken: u64,
    /// The first piece that is none of the sender's.
    pub nonsense: Option<u64>,
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Open,
    /// Closed by its process or its machine: what comes is answered with a reset.
    Closed,
    /// Its machine lost power: nobody answers until it is back.
    Lost,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Towards the side that accepted, and towards the side that connected.
    pub directions: [Direction; 2],
    pub sides: [Side; 2],
    /// Whoever connected asked for a stream of raft messages, of appends or of all others.
    pub asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Appends,
    Messages,
}

impl Connection {
    pub fn new(from: Host, to: Host) -> Connection {
        Connection {
            directions: [Direction::new(from, to), Direction::new(to, from)],
            sides: [Side::Open; 2],
            asked: None,
        }
    }

    /// A side sends something.
    pub fn push(&mut self, side: usize, is_cut: bool, fate: &mut dyn Fate, piece: Piece) {
        if let Piece::Data(data) = &piece
            && (side, self.directions[0].sent) == (0, 0)
        {
            let asks = |path: &[u8]| data.starts_with(path);
            self.asked = match () {
                () if asks(b"GET /raft/stream/msgapp/") => Some(Asked::Appends),
                () if asks(b"GET /raft/stream/message/") => Some(Asked::Messages),
                () => None,
            };
        }
        self.directions[side].push(is_cut, fate, piece);
    }

    /// As [`Connection::push`], but bytes become others on the way. False, and nothing is sent, where no reader could tell.
    pub fn push_nonsense(
        &mut self,
        side: usize,
        is_cut: bool,
        fate: &mut dyn Fate,
        nonsense: Nonsense,
        data: &[u8],
    ) -> bool {
        let is_head = self.directions[side].sent == 0;
        let asked = if side == 1 && !is_head { self.asked } else { None };
        if !is_head && asked.is_none() {
            return false;
        }
        let direction = &mut self.directions[side];
        direction.nonsense.get_or_insert(direction.sent);
        let (first, rest) = nonsense.of(asked, data);
        direction.push(is_cut, fate, Piece::Data(first));
        if !rest.is_empty() {
            direction.push(is_cut, fate, Piece::Data(rest));
        }
        true
    }
}

impl Direction {
    fn new(from: Host, to: Host) -> Direction {
        Direction {
            from,
            to,
            pieces: VecDeque::new(),
            bytes: 0,
            last_arrival: Duration::ZERO,
            reader: None,
            writer: None,
            sent: 0,
            taken: 0,
            nonsense: None,
        }
    }

    fn push(&mut self, is_cut: bool, fate: &mut dyn Fate, piece: Piece) {
        let is_held = is_cut || self.pieces.back().is_some_and(|(arrival, _)| arrival.is_none());
        let arrival = (!is_held).then(|| now() + fate.link_delay(self.from, self.to));
        if let Piece::Data(data) = &piece {
            self.bytes += data.len();
            self.sent += 1;
            fate.carried(self.from, self.to, data);
        }
        let arrival = arrival.map(|arrival| arrival.max(self.last_arrival));
        self.last_arrival = arrival.unwrap_or(self.last_arrival);
        self.pieces.push_back((arrival, piece));
        wake(&mut self.reader);
    }

    /// Everything in it is lost; the reader is told at once.
    pub fn reset(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.pieces.push_back((Some(now()), Piece::Reset));
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// A piece was read to its end: the how manieth since there was nonsense, if there was.
    pub fn took(&mut self) -> Option<u64> {
        self.taken += 1;
        self.taken.checked_sub(self.nonsense? + 1)
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
