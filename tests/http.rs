//! One HTTP/1.1 exchange over a connection of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: not JSON: {}", self.text()))
    }
}

pub fn get(address: &str, path: &str) -> Answer {
    exchange(address, "GET", path, &[])
}

pub fn post(address: &str, path: &str, body: &[u8]) -> Answer {
    exchange(address, "POST", path, body)
}

pub fn exchange(address: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    exchange_with(address, method, path, &[], body)
}

/// With headers of the caller's own.
pub fn exchange_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    send(address, method, path, headers, body, LIMIT)
        .and_then(whole)
        .unwrap_or_else(|e| panic!("{method} {address}{path}: {e}"))
}

/// `Err` when the connection fails or `limit` passes without a byte.
pub fn try_exchange(
    address: &str,
    method: &str,
    path: &str,
    body: &[u8],
    limit: Duration,
) -> std::io::Result<Answer> {
    whole(send(address, method, path, &[], body, limit)?)
}

/// How long a server may be silent.
const LIMIT: Duration = Duration::from_secs(15);

fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // (In one piece: whoever refuses by the head alone has the rest already, and need not reset the connection.)
    stream.write_all(&[head.as_bytes(), b"\r\n", body].concat())?;
    Ok(stream)
}

fn whole(mut stream: TcpStream) -> std::io::Result<Answer> {
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw)?;
    parse(&raw).ok_or_else(|| {
        std::io::Error::other(format!("not an HTTP answer: {:?}", String::from_utf8_lossy(&raw)))
    })
}

/// The lines of an answer that goes on, each when it is there. Ends with the answer.
pub struct Lines {
    reader: BufReader<TcpStream>,
    text: Vec<u8>,
}

impl Lines {
    /// Posts; returns when the server has answered 200.
    pub fn post(address: &str, path: &str, body: &[u8]) -> std::io::Result<Lines> {
        let mut reader = BufReader::new(send(address, "POST", path, &[], body, LIMIT)?);
        let mut head = String::new();
        while reader.read_line(&mut head)? > 2 {}
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(std::io::Error::other(head));
        }
        Ok(Lines { reader, text: Vec::new() })
    }

    fn chunk(&mut self) -> std::io::Result<bool> {
        let mut size = String::new();
        self.reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
        // (With the end of line behind it.)
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        self.text.extend_from_slice(&chunk[..size]);
        Ok(size > 0)
    }
}

impl Iterator for Lines {
    type Item = serde_json::Value;

    fn next(&mut self) -> Option<serde_json::Value> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line is JSON"));
            }
            if !self.chunk().expect("the answer goes on, or ends") {
                return None;
            }
        }
    }
}

fn parse(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|l| l.split_once(':'))
        .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
        .collect();
    let mut body = raw[end + 4..].to_vec();
    if headers.iter().any(|(n, v)| n == "transfer-encoding" && v == "chunked") {
        body = dechunk(&body)?;
    }
    Some(Answer { status, headers, body })
}

fn dechunk(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = raw.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&raw[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        raw = &raw[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(raw.get(..size)?);
        raw = raw.get(size + 2..)?;
    }
}
