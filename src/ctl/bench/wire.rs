//! Just enough HTTP/2 and gRPC to load a server at about a microsecond per call: frames are written by hand into one buffer
//! per turn and read from another, headers are five indexed bytes after the first call, and of response headers nothing but the
//! status is looked for ([`crate::status`]).

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::status::{Failure, Statuses};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// Give credit back after so many bytes.
const CREDIT_STEP: u32 = 1 << 28;
const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub enum Event {
    /// Gave the stream so many complete messages (0: a part of one). `last` is the last of them, if the wire keeps them.
    Messages { stream: u32, count: u32, last: Vec<u8> },
    /// The last event of a stream.
    End { stream: u32, outcome: Result<(), Failure> },
}

trait Socket: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Socket for T {}

pub struct Wire {
    socket: Box<dyn Socket>,
    statuses: Statuses,
    /// Messages are handed out, and not only counted.
    pub keeps_messages: bool,
    input: Vec<u8>,
    pub output: Vec<u8>,
    authority: String,
    /// The path in the server's header table, if the first one used is there already.
    indexed: Option<&'static str>,
    next_stream: u32,
    /// What the server still takes on this connection.
    send_window: i64,
    received: u32,
    received_sum: u64,
    /// Where the message boundaries of long-lived streams are; unary streams use the first byte only.
    parts: Vec<(u32, Part)>,
}

/// Position within a sequence of length-prefixed messages.
#[derive(Default)]
struct Part {
    head: [u8; 5],
    head_bytes: usize,
    left: usize,
    /// What has come of the message, where messages are kept.
    kept: Vec<u8>,
    last: Vec<u8>,
}

impl Part {
    fn feed(&mut self, mut data: &[u8], keeps: bool) -> u32 {
        let mut complete = 0;
        while !data.is_empty() {
            if self.head_bytes < 5 {
                let take = data.len().min(5 - self.head_bytes);
                self.head[self.head_bytes..self.head_bytes + take].copy_from_slice(&data[..take]);
                self.head_bytes += take;
                data = &data[take..];
                if self.head_bytes < 5 {
                    break;
                }
                let [_, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
            }
            let take = data.len().min(self.left);
            self.left -= take;
            if keeps {
                self.kept.extend_from_slice(&data[..take]);
            }
            data = &data[take..];
            if self.left == 0 {
                self.head_bytes = 0;
                complete += 1;
                self.last = std::mem::take(&mut self.kept);
            }
        }
        complete
    }
}

fn frame_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = (length as u32).to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

fn literal(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 127, "header text fits one length byte: {text}");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

impl Wire {
    /// With TLS, if the endpoint's scheme is `https`.
    pub async fn connect(endpoint: &str, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let (scheme, address) = endpoint.split_once("://").unwrap_or(("http", endpoint));
        let authority = address.trim_end_matches('/').to_owned();
        let socket = TcpStream::connect(&authority).await?;
        socket.set_nodelay(true)?;
        let socket: Box<dyn Socket> = match (scheme, tls) {
            ("https", Some(config)) => {
                let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
                let name = name.map_err(io::Error::other)?;
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name, socket).await?)
            }
            ("https", None) => return Err(io::Error::other("no TLS settings for https")),
            _ => Box::new(socket),
        };
        let mut output = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // No push, windows as large as they get.
        frame_head(&mut output, 12, SETTINGS, 0, 0);
        output.extend_from_slice(&[0, 2, 0, 0, 0, 0, 0, 4]);
        output.extend_from_slice(&WINDOW_MAX.to_be_bytes());
        frame_head(&mut output, 4, WINDOW_UPDATE, 0, 0);
        output.extend_from_slice(&(WINDOW_MAX - 65_535).to_be_bytes());
        Ok(Self {
            socket,
            statuses: Statuses::default(),
            keeps_messages: false,
            input: Vec::with_capacity(READ_BYTES),
            output,
            authority,
            indexed: None,
            next_stream: 1,
            send_window: 65_535,
            received: 0,
            received_sum: 0,
            parts: Vec::new(),
        })
    }

    /// Of messages, and the lengths before them.
    pub fn received_bytes(&self) -> u64 {
        self.received_sum
    }

    /// May `bytes` of messages be sent now?
    pub fn has_window(&self, bytes: usize) -> bool {
        self.send_window >= bytes as i64
    }

    /// Opens a stream with one message; `last` when there will be no other.
    pub fn open(&mut self, path: &'static str, message: &[u8], last: bool) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let mut block = Vec::with_capacity(128);
        if self.indexed == Some(path) {
            // :method POST, :scheme http, then the entries of the first call, newest first in the table.
            block.extend_from_slice(&[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]);
        } else {
            // Only the first path is put into the table; others are spelled out every time.
            let first = self.indexed.is_none();
            block.extend_from_slice(&[0x83, 0x86, if first { 0x44 } else { 0x04 }]);
            literal(&mut block, path);
            if first {
                self.indexed = Some(path);
                block.push(0x41);
                literal(&mut block, &self.authority);
                block.push(0x5f);
                literal(&mut block, "application/grpc");
                block.push(0x40);
                literal(&mut block, "te");
                literal(&mut block, "trailers");
            } else {
                block.extend_from_slice(&[0xc0, 0xbf, 0xbe]);
            }
        }
        frame_head(&mut self.output, block.len(), HEADERS, END_HEADERS, stream);
        self.output.extend_from_slice(&block);
        self.parts.push((stream, Part::default()));
        self.send(stream, message, last);
        stream
    }

    /// One more message on an open stream.
    pub fn send(&mut self, stream: u32, message: &[u8], last: bool) {
        let bytes = message.len() + 5;
        self.send_window -= bytes as i64;
        let mut head = Some(u32::try_from(message.len()).expect("a message is small"));
        let mut rest = message;
        // Frames may not be longer than 16 KiB.
        loop {
            let room = 16_384 - if head.is_some() { 5 } else { 0 };
            let (now, later) = rest.split_at(rest.len().min(room));
            let end = later.is_empty() && last;
            let length = now.len() + if head.is_some() { 5 } else { 0 };
            frame_head(&mut self.output, length, DATA, if end { END_STREAM } else { 0 }, stream);
            if let Some(length) = head.take() {
                self.output.push(0);
                self.output.extend_from_slice(&length.to_be_bytes());
            }
            self.output.extend_from_slice(now);
            rest = later;
            if rest.is_empty() {
                return;
            }
        }
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.socket.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Sends what is queued, waits for the server, and reports what it sent. Safe to cancel only while nothing is queued.
    pub async fn turn(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.flush().await?;
        if self.input.capacity() - self.input.len() < READ_BYTES / 2 {
            self.input.reserve(READ_BYTES);
        }
        if self.socket.read_buf(&mut self.input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = 0;
        while let Some(head) = self.input.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW_MAX;
            if self.input.len() < at + 9 + length {
                break;
            }
            let body = at + 9..at + 9 + length;
            at = body.end;
            self.frame(kind, flags, stream, body, events)?;
        }
        self.input.drain(..at);
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        body: std::ops::Range<usize>,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        let Self { input, output, parts, statuses, keeps_messages, .. } = self;
        let body = &input[body];
        match kind {
            DATA => {
                self.received += body.len() as u32;
                self.received_sum += body.len() as u64;
                if self.received > CREDIT_STEP {
                    frame_head(output, 4, WINDOW_UPDATE, 0, 0);
                    output.extend_from_slice(&self.received.to_be_bytes());
                    self.received = 0;
                }
                if let Ok(i) = parts.binary_search_by_key(&stream, |p| p.0) {
                    let part = &mut parts[i].1;
                    let count = part.feed(body, *keeps_messages);
                    let last = std::mem::take(&mut part.last);
                    events.push(Event::Messages { stream, count, last });
                }
                if flags & END_STREAM != 0 {
                    let outcome = Err(Failure("an end without a status".to_owned()));
                    self.end(stream, outcome, events);
                }
            }
            HEADERS => {
                let ended = statuses.read(body);
                if flags & END_STREAM != 0 {
                    let none = || Err(Failure("no status".to_owned()));
                    self.end(stream, ended.unwrap_or_else(none), events);
                }
            }
            RST_STREAM => {
                let code = body.last().copied().unwrap_or_default();
                self.end(stream, Err(Failure(format!("reset with HTTP/2 code {code}"))), events);
            }
            SETTINGS if flags & ACK == 0 => {
                frame_head(output, 0, SETTINGS, ACK, 0);
            }
            PING if flags & ACK == 0 => {
                frame_head(output, 8, PING, ACK, 0);
                output.extend_from_slice(body);
            }
            WINDOW_UPDATE if stream == 0 => {
                let more: [u8; 4] = body.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
                self.send_window += i64::from(u32::from_be_bytes(more));
            }
            GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
            _ => {}
        }
        Ok(())
    }

    fn end(&mut self, stream: u32, outcome: Result<(), Failure>, events: &mut Vec<Event>) {
        if let Ok(i) = self.parts.binary_search_by_key(&stream, |p| p.0) {
            self.parts.remove(i);
            events.push(Event::End { stream, outcome });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_across_frames() {
        let mut bytes = Vec::new();
        for length in [0u32, 3, 10] {
            bytes.push(0);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.resize(bytes.len() + length as usize, 7);
        }
        for cut in 0..bytes.len() {
            let mut part = Part::default();
            let count = part.feed(&bytes[..cut], true) + part.feed(&bytes[cut..], true);
            assert_eq!((count, part.last), (3, vec![7; 10]), "cut at {cut}");
        }
    }
}
