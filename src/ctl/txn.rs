//! txn: comparisons and two lists of requests, read from stdin.

use std::io::BufRead;

use norn_proto::etcdserverpb as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request;

use crate::commands::{Context, grammar, spec};
use crate::connect::Repeat;
use crate::exit::{self, Exit, Outcome, bad_args};
use crate::go;
use crate::kv;
use crate::print::Reply;

pub async fn txn(c: &Context) -> Outcome {
    if !c.line.args.is_empty() {
        return bad_args("txn command does not accept argument");
    }
    let interactive = c.line.bool("interactive");
    let request = read(&mut std::io::stdin().lock(), |prompt| {
        if interactive {
            println!("{prompt}");
        }
    })?;
    let client = c.client().await?;
    let reply = client.call("/etcdserverpb.KV/Txn", &request, Repeat::No).await?;
    c.printer.print(&Reply::Txn(&reply))
}

fn invalid(message: impl std::fmt::Display) -> Exit {
    Exit::new(exit::INVALID_INPUT, message)
}

/// Three sections, each ended by an empty line; the input may end in the last one.
fn read(input: &mut dyn BufRead, mut ask: impl FnMut(&str)) -> Outcome<pb::TxnRequest> {
    ask("compares:");
    let mut compare = Vec::new();
    for line in section(input, false)? {
        compare.push(parse_compare(&line)?);
    }
    ask("success requests (get, put, del):");
    let mut success = Vec::new();
    for line in section(input, false)? {
        success.push(parse_request(&line)?);
    }
    ask("failure requests (get, put, del):");
    let mut failure = Vec::new();
    for line in section(input, true)? {
        failure.push(parse_request(&line)?);
    }
    Ok(pb::TxnRequest { compare, success, failure })
}

fn section(input: &mut dyn BufRead, last: bool) -> Outcome<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let bytes = input.read_line(&mut line).map_err(invalid)?;
        if bytes == 0 {
            return if last { Ok(lines) } else { Err(invalid("EOF")) };
        }
        let line = line.trim();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line.to_owned());
    }
}

/// `target("key") op "value"`.
fn parse_compare(line: &str) -> Outcome<pb::Compare> {
    let parts = split_compare(line);
    let Some((target, key, op, value)) = parts else {
        return Err(invalid(format!("malformed comparison: {line}; got {}", Partial(line))));
    };
    let wrong = || invalid(format!("invalid txn compare request: {line}"));
    let number = || go::parse_i64(&String::from_utf8_lossy(&value), 10).map_err(|_| wrong());
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        "lease" => {
            let id = go::parse_i64(&String::from_utf8_lossy(&value), 16).map_err(|_| wrong())?;
            (CompareTarget::Lease, TargetUnion::Lease(id))
        }
        _ => return Err(wrong()),
    };
    let result = match op {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        _ => return Err(wrong()),
    };
    Ok(pb::Compare {
        result: result as i32,
        target: target as i32,
        key: key.into(),
        range_end: Default::default(),
        target_union: Some(union),
    })
}

fn split_compare(line: &str) -> Option<(&str, Vec<u8>, &str, Vec<u8>)> {
    let (target, rest) = line.split_once('(')?;
    let (quoted, rest) = quoted_prefix(rest)?;
    let rest = rest.strip_prefix(')')?.trim_start();
    let (op, value) = rest.split_once(' ')?;
    let value = value.trim();
    let value = match quoted_prefix(value) {
        Some((value, "")) => value,
        // A number may stand bare.
        None if !value.starts_with('"') && !value.is_empty() => value.as_bytes().to_vec(),
        _ => return None,
    };
    Some((target.trim(), quoted, op, value))
}

/// A quoted string at the start of `text`, and what follows.
fn quoted_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((go::unquote(&text[..=i])?, &text[i + 1..])),
            _ => {}
        }
    }
    None
}

/// How much of a comparison could be read, for its error message.
struct Partial<'a>(&'a str);

impl std::fmt::Display for Partial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (target, rest) = self.0.split_once('(').unwrap_or((self.0, ""));
        let (key, rest) = quoted_prefix(rest).unwrap_or_default();
        let op = rest.strip_prefix(')').unwrap_or("").split_whitespace().next().unwrap_or("");
        write!(f, "{target}({}) {op} \"\"", go::quote(&key))
    }
}

fn parse_request(line: &str) -> Outcome<pb::RequestOp> {
    let wrong = || invalid(format!("invalid txn request: {line}"));
    let words = words(line).ok_or_else(wrong)?;
    let (verb, rest) = words.split_first().ok_or_else(wrong)?;
    let verb = match verb.as_str() {
        verb @ ("get" | "put" | "del") => verb,
        _ => return Err(wrong()),
    };
    let line = grammar("etcdctl").parse_command(spec(verb), rest).map_err(|_| wrong())?;
    let request = match verb {
        "get" => Request::RequestRange(kv::range_request(&line)?),
        "put" => Request::RequestPut(kv::put_request(&line, false)?),
        _ => Request::RequestDeleteRange(kv::delete_request(&line)?),
    };
    Ok(pb::RequestOp { request: Some(request) })
}

/// Splits into words: "with escapes", 'as it is', or bare. `None`: a quote is not closed.
pub fn words(line: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = match first {
            '"' => {
                let (bytes, after) = quoted_prefix(rest)?;
                rest = after;
                String::from_utf8(bytes).ok()?
            }
            '\'' => {
                let (word, after) = rest[1..].split_once('\'')?;
                rest = after;
                word.to_owned()
            }
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                rest = after;
                word.to_owned()
            }
        };
        out.push(word);
        rest = rest.trim_start();
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Outcome<pb::TxnRequest> {
        read(&mut text.as_bytes(), |_| {})
    }

    #[test]
    fn three_sections() {
        let t = parse("val(\"a\") = \"v\"\nver(\"b\") > \"0\"\n\nput 'c d' \"x\\ny\"\nget a --prefix\n\ndel d").unwrap();
        assert_eq!((t.compare.len(), t.success.len(), t.failure.len()), (2, 2, 1));
        assert_eq!(t.compare[1].target_union, Some(TargetUnion::Version(0)));
        let Some(Request::RequestPut(put)) = &t.success[0].request else { panic!() };
        assert_eq!((&put.key[..], &put.value[..]), (&b"c d"[..], &b"x\ny"[..]));
        let Some(Request::RequestRange(get)) = &t.success[1].request else { panic!() };
        assert_eq!(&get.range_end[..], b"b");
    }

    #[test]
    fn errors() {
        let message = |text: &str| parse(text).unwrap_err().message;
        assert_eq!(
            message("val(\"a\") = \"va3\n\n\n"),
            "malformed comparison: val(\"a\") = \"va3; got val(\"a\") = \"\""
        );
        assert_eq!(
            message("mod(\"a\") ! \"va3\"\n\n\n"),
            "invalid txn compare request: mod(\"a\") ! \"va3\""
        );
        assert_eq!(
            message("mod(\"a\") > \"x\"\n\n\n"),
            "invalid txn compare request: mod(\"a\") > \"x\""
        );
        assert_eq!(message("\nputt c 1\n\n"), "invalid txn request: putt c 1");
        assert_eq!(message("mod(\"a\") > \"1\""), "EOF");
    }
}
