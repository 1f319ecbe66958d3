//! URLs of flags, read as etcd reads them: first Go's `net/url`, whose complaints operators know, then etcd's own rules.

use std::borrow::Cow;

/// What both ask for; otherwise the text for the operator.
pub fn check(url: &str) -> Result<(), String> {
    let parsed = parse(url).map_err(|what| format!("parse {url:?}: {what}"))?;
    match parsed.scheme.as_str() {
        "http" | "https" => {}
        "unix" | "unixs" => return Ok(()),
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {url}")),
    }
    if !has_port(parsed.address) {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if !parsed.path.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

/// With its scheme as it is written everywhere else.
pub fn normal(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{}://{rest}", scheme.to_ascii_lowercase()),
        None => url.to_owned(),
    }
}

/// `host:port` of a URL that passed.
pub fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    authority.rsplit_once('@').map_or(authority, |(_, address)| address)
}

/// The file of a socket's URL: what stands for the host, and the path.
pub fn socket_path(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("unix:").or_else(|| url.strip_prefix("unixs:"))?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    Some(&rest[..rest.find(['?', '#']).unwrap_or(rest.len())])
}

/// Host without port and brackets; of a unix URL the path.
pub fn host(url: &str) -> &str {
    if url.starts_with("unix") {
        return url.split_once("://").map_or(url, |(_, rest)| rest);
    }
    let address = address(url);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

struct Parsed<'a> {
    scheme: String,
    address: &'a str,
    path: &'a str,
}

fn parse(url: &str) -> Result<Parsed<'_>, Cow<'static, str>> {
    if url.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err("net/url: invalid control character in URL".into());
    }
    let url = url.split_once('#').map_or(url, |(url, _)| url);
    let (scheme, rest) = split_scheme(url)?;
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    let nothing = Parsed { scheme: scheme.to_ascii_lowercase(), address: "", path: "" };
    if !rest.starts_with('/') {
        let segment = rest.split_once('/').map_or(rest, |(segment, _)| segment);
        if scheme.is_empty() && segment.contains(':') {
            return Err("first path segment in URL cannot contain colon".into());
        }
        return Ok(nothing);
    }
    let Some(rest) = rest.strip_prefix("//") else {
        check_escapes(rest)?;
        return Ok(Parsed { path: rest, ..nothing });
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = match authority.rsplit_once('@') {
        Some((user, address)) => {
            let is_plain =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
            check_address(address)?;
            if !user.bytes().all(is_plain) {
                return Err("net/url: invalid userinfo".into());
            }
            check_escapes(user)?;
            address
        }
        None => {
            check_address(authority)?;
            authority
        }
    };
    check_escapes(path)?;
    Ok(Parsed { address, path, ..nothing })
}

fn split_scheme(url: &str) -> Result<(&str, &str), Cow<'static, str>> {
    for (i, byte) in url.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&url[..i], &url[i + 1..])),
            _ => break,
        }
    }
    Ok(("", url))
}

fn check_address(address: &str) -> Result<(), Cow<'static, str>> {
    let port = if address.starts_with('[') {
        let end = address.rfind(']').ok_or("missing ']' in host")?;
        &address[end + 1..]
    } else {
        &address[address.rfind(':').unwrap_or(address.len())..]
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let is_port = port.is_empty() || digits.len() < port.len();
    if !is_port || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("invalid port {port:?} after host").into());
    }
    for (i, c) in address.char_indices() {
        if c == '%' {
            // (Only what is no ASCII may be escaped in a host.)
            check_escapes(&address[i..])?;
            if matches!(address.as_bytes()[i + 1], b'0'..=b'7')
                && address.get(i..i + 3) != Some("%25")
            {
                return Err(format!("invalid URL escape {:?}", &address[i..i + 3]).into());
            }
        } else if c.is_ascii()
            && !c.is_ascii_alphanumeric()
            && !"-_.~!$&'()*+,;=:[]<>\"".contains(c)
        {
            return Err(format!("invalid character {:?} in host name", c.to_string()).into());
        }
    }
    Ok(())
}

/// Every `%` is followed by two hexadecimal digits.
fn check_escapes(text: &str) -> Result<(), Cow<'static, str>> {
    for (i, _) in text.match_indices('%') {
        let escape = text[i..].chars().take(3).collect::<String>();
        if escape.len() != 3 || !escape[1..].bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("invalid URL escape {escape:?}").into());
        }
    }
    Ok(())
}

/// As `net.SplitHostPort`: one colon behind the host, which needs brackets if it has colons itself.
fn has_port(address: &str) -> bool {
    let Some((host, _)) = address.rsplit_once(':') else { return false };
    match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').is_some_and(|inner| !inner.contains(['[', ']'])),
        None => !host.contains([':', '[', ']']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes() {
        for url in [
            "http://127.0.0.1:2379",
            "https://[::1]:2379",
            "HTTP://localhost:1",
            "unix://norn:0",
            "http://:2379",
            "http://10.0.0.1:99999",
            "http://10.0.0.1:1?x=1",
            "http://user@10.0.0.1:1",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_does_not_and_why() {
        let scheme = "URL scheme must be http, https, unix, or unixs: ";
        let form = "URL address does not have the form \"host:port\": ";
        for (url, text) in [
            ("127.0.0.1:2379", "first path segment in URL cannot contain colon"),
            ("1http://a:1", "first path segment in URL cannot contain colon"),
            (":2379", "missing protocol scheme"),
            ("http://a b:1", "invalid character \" \" in host name"),
            ("http://127.0.0.1:0x", "invalid port \":0x\" after host"),
            ("http://127.0.0.1:-1", "invalid port \":-1\" after host"),
            ("http://[::1:2379", "missing ']' in host"),
            ("http://%zz:1", "invalid URL escape \"%zz\""),
            ("http://%41:1", "invalid URL escape \"%41\""),
            ("http://a:1/%z", "invalid URL escape \"%z\""),
            ("http://a:1\t", "net/url: invalid control character in URL"),
        ] {
            assert_eq!(check(url), Err(format!("parse {url:?}: {text}")), "{url}");
        }
        for url in ["localhost:2379", "foo", "ftp://a:1", "http//127.0.0.1"] {
            assert_eq!(check(url), Err(format!("{scheme}{url}")));
        }
        for url in ["http://127.0.0.1", "http:127.0.0.1:1", "http://", "http://::1:2379"] {
            assert_eq!(check(url), Err(format!("{form}{url}")));
        }
        let path = check("http://127.0.0.1:1/").unwrap_err();
        assert_eq!(path, "URL must not contain a path: http://127.0.0.1:1/");
    }

    #[test]
    fn parts() {
        assert_eq!(address("http://u@[::1]:1?x"), "[::1]:1");
        assert_eq!(host("http://u@[::1]:1?x"), "::1");
        assert_eq!(host("http://:1"), "");
        assert_eq!(host("unix://a:1"), "a:1");
        assert_eq!(socket_path("unix://a:1"), Some("a:1"));
        assert_eq!(socket_path("unix:///tmp/a:1"), Some("/tmp/a:1"));
        assert_eq!(socket_path("unixs:/tmp/a"), Some("/tmp/a"));
        assert_eq!(socket_path("http://a:1"), None);
    }
}
