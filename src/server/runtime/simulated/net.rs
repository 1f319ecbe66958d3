//! Connections between machines: bytes in order, with delay, held up where a link is cut, and ended the way TCP ends them.
//!
//! - A cut link holds what is sent over it, ends and resets included; when it is whole again that arrives, a resend later.
//!   Nobody is told of a cut: only silence tells.
//! - Connecting takes a round trip. Over a cut link, or to a machine without power, it waits and tries again.
//! - Where nobody listens, or the other end is gone, the answer is a reset.
//! - A machine that loses power says nothing. Its peers learn of it when they send something after it is back.
//! - What was written and not read is bounded; then writers wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use madsim::task::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use super::address::address;
use super::address::host_at;
use super::connection::{Connection, Direction, Piece, Side, wake};
use super::nonsense::Nonsense;
use super::time::Alarm;
use super::{Fate, Host, here, now, with, with_if_any};

/// Written and not read, per direction.
const WINDOW_BYTES: usize = 256 << 10;
/// So many pieces after nonsense, a reader has taken it for something. (Some were on their way.)
const SWALLOWED_MAX: u64 = 64;
/// Between two tries to open a connection that gets no answer.
const DIAL_AGAIN: Duration = Duration::from_secs(1);
/// The simulation itself, as a machine that nothing is cut off from.
const NOWHERE: Host = usize::MAX;

#[derive(Debug)]
struct Listening {
    node: NodeId,
    backlog: VecDeque<(u64, SocketAddr)>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
pub(super) struct Net {
    connections: BTreeMap<u64, Connection>,
    listening: BTreeMap<SocketAddr, Listening>,
    cut: BTreeSet<(Host, Host)>,
    /// What is to become of the next data from one machine to another that nobody could take for anything else.
    spoilt: BTreeMap<(Host, Host), Nonsense>,
    opened: u64,
}

impl Net {
    fn is_cut(&self, from: Host, to: Host) -> bool {
        self.cut.contains(&(from, to))
    }

    pub(super) fn cut(&mut self, links: impl IntoIterator<Item = (Host, Host)>) {
        self.cut.extend(links);
    }

    pub(super) fn mend(&mut self, fate: &mut dyn Fate) {
        self.cut.clear();
        for connection in self.connections.values_mut() {
            for direction in &mut connection.directions {
                if direction.pieces.iter().all(|(arrival, _)| arrival.is_some()) {
                    continue;
                }
                let delay = fate.resend_delay() + fate.link_delay(direction.from, direction.to);
                let arrival = (now() + delay).max(direction.last_arrival);
                direction.last_arrival = arrival;
                for (at, _) in &mut direction.pieces {
                    at.get_or_insert(arrival);
                }
                wake(&mut direction.reader);
            }
        }
    }

    pub(super) fn spoil(&mut self, from: Host, to: Host, nonsense: Option<Nonsense>) {
        match nonsense {
            Some(nonsense) => self.spoilt.insert((from, to), nonsense),
            None => self.spoilt.remove(&(from, to)),
        };
    }

    pub(super) fn sever(&mut self, a: Host, b: Host) {
        for connection in self.connections.values_mut() {
            let (from, to) = (connection.directions[0].from, connection.directions[0].to);
            if (from, to) == (a, b) || (from, to) == (b, a) {
                connection.directions.iter_mut().for_each(Direction::reset);
            }
        }
    }

    /// The process of a machine ended; `says_so`: its machine closes what it had open.
    pub(super) fn abandon(&mut self, host: Host, says_so: bool, fate: &mut dyn Fate) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            for side in 0..2 {
                let connection = &mut self.connections.get_mut(&id).expect("only closed below");
                let is_ours = connection.directions[side].from == host;
                if !is_ours || connection.sides[side] != Side::Open {
                    continue;
                }
                if says_so {
                    self.close(id, side, fate);
                } else {
                    connection.sides[side] = Side::Lost;
                }
                if !self.connections.contains_key(&id) {
                    break;
                }
            }
        }
        self.listening.retain(|address, _| host_at(*address) != Some(host));
    }

    fn send(&mut self, id: u64, side: usize, fate: &mut dyn Fate, piece: Piece) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let link = (connection.directions[side].from, connection.directions[side].to);
        let is_cut = self.cut.contains(&link);
        if let Piece::Data(data) = &piece
            && let Some(nonsense) = self.spoilt.get(&link)
            && connection.push_nonsense(side, is_cut, fate, *nonsense, data)
        {
            self.spoilt.remove(&link);
            return fate.spoilt(link.0, link.1);
        }
        connection.push(side, is_cut, fate, piece);
    }

    /// A side closes: an end, or a reset if it leaves something unread.
    fn close(&mut self, id: u64, side: usize, fate: &mut dyn Fate) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.sides[side] != Side::Open {
            return;
        }
        connection.sides[side] = Side::Closed;
        let left = connection.directions[1 - side].bytes > 0;
        let is_over = connection.sides[1 - side] != Side::Open;
        if is_over {
            self.connections.remove(&id);
        } else {
            self.send(id, side, fate, if left { Piece::Reset } else { Piece::End });
        }
    }

    fn open(&mut self, from: (Host, SocketAddr), to: SocketAddr) -> Option<u64> {
        let listening = self.listening.get_mut(&to)?;
        let host = host_at(to)?;
        self.opened += 1;
        self.connections.insert(self.opened, Connection::new(from.0, host));
        listening.backlog.push_back((self.opened, from.1));
        wake(&mut listening.waker);
        Some(self.opened)
    }
}

/// Where connections to a port arrive.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    node: NodeId,
}

impl Listener {
    /// # Errors
    /// Somebody has the port.
    pub async fn bind(target: &str) -> io::Result<Listener> {
        let wanted: SocketAddr = target
            .parse()
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "not an address"))?;
        let host = here().ok_or(ErrorKind::AddrNotAvailable)?;
        let address = SocketAddr::new(self::address(host), wanted.port());
        let node = madsim::plugin::node();
        with(|world| {
            if world.net.listening.contains_key(&address) {
                return Err(ErrorKind::AddrInUse.into());
            }
            let listening = Listening { node, backlog: VecDeque::new(), waker: None };
            world.net.listening.insert(address, listening);
            Ok(Listener { address, node })
        })
    }

    /// Machines share no files.
    ///
    /// # Errors
    /// Always.
    pub fn bind_unix(path: &str) -> Result<Listener, String> {
        Err(format!("listen unix {path}: not in the simulation"))
    }

    pub fn address(&self) -> Option<String> {
        Some(self.address.to_string())
    }

    /// # Errors
    /// The process is no more.
    pub async fn accept(&self) -> io::Result<Stream> {
        poll_fn(|cx| {
            with(|world| {
                let listening = world.net.listening.get_mut(&self.address);
                let Some(listening) = listening.filter(|l| l.node == self.node) else {
                    return Poll::Ready(Err(ErrorKind::NotConnected.into()));
                };
                if let Some((id, _)) = listening.backlog.pop_front() {
                    return Poll::Ready(Ok(Stream::new(id, 1)));
                }
                listening.waker = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        with_if_any(|world| {
            let listening = &mut world.net.listening;
            if listening.get(&self.address).is_some_and(|l| l.node == self.node)
                && let Some(listening) = listening.remove(&self.address)
            {
                for (id, _) in listening.backlog {
                    world.net.close(id, 1, world.fate.as_mut());
                }
            }
        });
    }
}

/// One side of a connection.
#[derive(Debug)]
pub struct Stream {
    id: u64,
    side: usize,
    has_ended: bool,
    alarm: Alarm,
}

impl Stream {
    fn new(id: u64, side: usize) -> Stream {
        Stream { id, side, has_ended: false, alarm: Alarm::default() }
    }

    /// # Errors
    /// Nobody listens there.
    pub async fn connect(target: &str) -> io::Result<Stream> {
        let to: SocketAddr = target
            .parse()
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "not an address"))?;
        let host = host_at(to).ok_or(ErrorKind::HostUnreachable)?;
        let own = here().unwrap_or(NOWHERE);
        let from = SocketAddr::new(address(own.min(1 << 16)), 0);
        let trip = |a, b| with(|world| world.fate.link_delay(a, b));
        loop {
            madsim::time::sleep(trip(own, host)).await;
            let reached = with(|world| {
                let is_whole = !world.net.is_cut(own, host) && !world.net.is_cut(host, own);
                let is_powered = world.machines.get(host).is_some_and(|m| m.is_powered);
                (is_whole && is_powered).then(|| world.net.open((own, from), to))
            });
            match reached {
                None => madsim::time::sleep(DIAL_AGAIN).await,
                Some(None) => {
                    madsim::time::sleep(trip(host, own)).await;
                    return Err(ErrorKind::ConnectionRefused.into());
                }
                Some(Some(id)) => {
                    let stream = Stream::new(id, 0);
                    madsim::time::sleep(trip(host, own)).await;
                    return Ok(stream);
                }
            }
        }
    }

    /// # Errors
    /// Always: see [`Listener::bind_unix`].
    pub async fn connect_unix(_: &str) -> io::Result<Stream> {
        Err(ErrorKind::Unsupported.into())
    }

    /// # Errors
    /// None here.
    pub fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        with_if_any(|world| world.net.close(self.id, self.side, world.fate.as_mut()));
    }
}

/// What a reader finds.
enum Found {
    Taken,
    Failed,
    /// Something is on its way, or nothing.
    Later(Option<Duration>),
}

impl Net {
    fn read(
        &mut self,
        id: u64,
        side: usize,
        fate: &mut dyn Fate,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Found {
        let Some(connection) = self.connections.get_mut(&id) else { return Found::Failed };
        let direction = &mut connection.directions[1 - side];
        match direction.pieces.front_mut() {
            Some((Some(at), piece)) if *at <= now() => match piece {
                Piece::Data(data) => {
                    let count = data.len().min(buf.remaining());
                    buf.put_slice(&data[..count]);
                    data.advance(count);
                    direction.bytes -= count;
                    if data.is_empty() {
                        direction.pieces.pop_front();
                        if direction.took() == Some(SWALLOWED_MAX) {
                            fate.swallowed(direction.from, direction.to);
                        }
                    }
                    wake(&mut direction.writer);
                    Found::Taken
                }
                Piece::End => Found::Taken,
                Piece::Reset => Found::Failed,
            },
            front => {
                let at = front.and_then(|(at, _)| *at);
                direction.reader = Some(cx.waker().clone());
                Found::Later(at)
            }
        }
    }

    /// How much of it was taken; `None`: there is no room now.
    fn write(
        &mut self,
        id: u64,
        side: usize,
        fate: &mut dyn Fate,
        is_powered: impl Fn(Host) -> bool,
        data: &[u8],
    ) -> io::Result<Option<usize>> {
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let was_reset = connection.directions[1 - side]
            .pieces
            .iter()
            .any(|(at, piece)| matches!(piece, Piece::Reset) && at.is_some_and(|at| at <= now()));
        if was_reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let other = connection.sides[1 - side];
        let (own, there) = (connection.directions[side].from, connection.directions[side].to);
        let is_answered = match other {
            Side::Open => {
                if connection.directions[side].bytes >= WINDOW_BYTES {
                    return Ok(None);
                }
                self.send(id, side, fate, Piece::Data(Bytes::copy_from_slice(data)));
                return Ok(Some(data.len()));
            }
            Side::Closed => true,
            Side::Lost => is_powered(there),
        };
        // (If the link is cut on the way there, the other machine never knows, as long as nothing is sent again.)
        if is_answered && !self.is_cut(own, there) {
            self.send(id, 1 - side, fate, Piece::Reset);
        }
        Ok(Some(data.len()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (id, side) = (self.id, self.side);
        match with(|world| world.net.read(id, side, world.fate.as_mut(), cx, buf)) {
            Found::Taken => Poll::Ready(Ok(())),
            Found::Failed => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            Found::Later(at) => {
                if let Some(at) = at {
                    self.alarm.set(cx, at);
                }
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        with(|world| {
            let machines = &world.machines;
            let is_powered = |host: Host| machines.get(host).is_some_and(|m| m.is_powered);
            let fate = world.fate.as_mut();
            match world.net.write(self.id, self.side, fate, is_powered, data) {
                Ok(Some(count)) => Poll::Ready(Ok(count)),
                Ok(None) => {
                    if let Some(connection) = world.net.connections.get_mut(&self.id) {
                        let waker = Some(cx.waker().clone());
                        connection.directions[self.side].writer = waker;
                    }
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            }
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.has_ended, true) {
            with(|world| world.net.send(self.id, self.side, world.fate.as_mut(), Piece::End));
        }
        Poll::Ready(Ok(()))
    }
}

impl crate::collected::Pipe for Stream {
    fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = pieces.iter().find(|piece| !piece.is_empty());
        first.map_or(Poll::Ready(Ok(0)), |first| Pin::new(self).poll_write(cx, first))
    }

    fn push(&mut self) -> io::Result<()> {
        Ok(())
    }
}
