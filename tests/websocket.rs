//! A WebSocket client that says what it is told to, also what no client should.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::http::Answer;

/// How long a server may be silent.
const LIMIT: Duration = Duration::from_secs(15);
/// (What it must answer with is RFC 6455's own example.)
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [1, 2, 3, 4];
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;

#[derive(Debug)]
pub struct WebSocket {
    reader: BufReader<TcpStream>,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Text(String),
    Pong(Vec<u8>),
    /// With its code, when it has one, and its reason.
    Close(Option<u16>, String),
    /// It hung up.
    End,
}

impl WebSocket {
    /// Asks for an upgrade; gives back the answer, too.
    pub fn open(address: &str, path: &str, headers: &[(&str, &str)]) -> (WebSocket, Answer) {
        let standard = [
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let own = |name: &str| headers.iter().any(|(other, _)| *other == name);
        let all = standard.iter().filter(|(name, _)| !own(name)).chain(headers);
        Self::ask(address, "GET", path, &all.copied().collect::<Vec<_>>())
    }

    /// With these headers and no others.
    pub fn ask(
        address: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (WebSocket, Answer) {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit is a limit");
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("the server reads");
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("the server answers");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).and_then(|code| code.parse().ok());
        let headers = lines[1..].iter().filter_map(|line| line.split_once(": "));
        let headers: Vec<(String, String)> =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let mut answer = Answer { status: status.expect("a status"), headers, body: Vec::new() };
        if let Some(len) = answer.header("content-length").and_then(|len| len.parse().ok()) {
            answer.body = vec![0; len];
            reader.read_exact(&mut answer.body).expect("the body is as long as it says");
        }
        (WebSocket { reader }, answer)
    }

    pub fn text(&mut self, text: &str) {
        self.frame(0x80 | TEXT, text.as_bytes());
    }

    pub fn binary(&mut self, bytes: &[u8]) {
        self.frame(0x80 | BINARY, bytes);
    }

    pub fn ping(&mut self, bytes: &[u8]) {
        self.frame(0x80 | PING, bytes);
    }

    pub fn close(&mut self, code: u16) {
        self.frame(0x80 | CLOSE, &code.to_be_bytes());
    }

    /// With this first byte: whether it is the last of its message, and what it is.
    pub fn frame(&mut self, first: u8, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).expect("tests say little");
        let mut frame = match u8::try_from(len) {
            Ok(len @ ..126) => vec![first, 0x80 | len],
            _ => [&[first, 0x80 | 126][..], &len.to_be_bytes()].concat(),
        };
        frame.extend_from_slice(&MASK);
        frame.extend(bytes.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.raw(&frame);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("the server reads");
    }

    /// The next thing the server says; panics when it says nothing.
    pub fn hear(&mut self) -> Said {
        let mut head = [0; 2];
        match self.reader.read_exact(&mut head) {
            // (Data that it did not care to read makes the end of a connection a reset.)
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
                ) =>
            {
                return Said::End;
            }
            read => read.expect("the server says something"),
        }
        let len = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.bytes())),
            127 => u64::from_be_bytes(self.bytes()),
            len => u64::from(len),
        };
        let mut payload = vec![0; usize::try_from(len).expect("an answer fits into memory")];
        self.reader.read_exact(&mut payload).expect("a frame is whole");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match head[0] {
            0x81 => Said::Text(text(&payload)),
            0x8a => Said::Pong(payload),
            0x88 => match payload.split_first_chunk() {
                Some((code, reason)) => Said::Close(Some(u16::from_be_bytes(*code)), text(reason)),
                None => Said::Close(None, String::new()),
            },
            other => panic!("a frame of kind {other:x}: {payload:?}"),
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).expect("a length is whole");
        bytes
    }
}
