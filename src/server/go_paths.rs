//! Paths and queries as Go's net/http reads them: a path that is not clean, or names a folder without its slash, is sent elsewhere.

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, Response, Uri};

use crate::body::Body;
use crate::client::{PLAIN, page};

/// The path of a request, with the prefix of older days replaced.
pub fn current(path: &str) -> String {
    match path.strip_prefix("/v3beta/") {
        Some(rest) => format!("/v3/{rest}"),
        None => path.to_owned(),
    }
}

/// Without its percent signs. `None`: one of them is followed by nothing that it could mean.
pub fn unescaped(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match byte {
            b'%' => {
                let (digits, after) = after.split_at_checked(2)?;
                let digit = |at: usize| char::from(digits[at]).to_digit(16);
                (u8::try_from(digit(0)? * 16 + digit(1)?).ok()?, after)
            }
            _ => (*byte, after),
        };
        out.push(byte);
        rest = after;
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// What a request is answered with whose path nobody understands.
pub fn refused(uri: &Uri) -> Option<Response<Body>> {
    let is_plain = unescaped(uri.path()).is_some();
    (!is_plain).then(|| {
        let mut response = page(400, PLAIN, "400 Bad Request");
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    })
}

/// Where a request is sent because of its path alone. `folder` is served, and all below it.
pub fn elsewhere(method: &Method, uri: &Uri, folder: Option<&str>) -> Option<Response<Body>> {
    let path = current(uri.path());
    let clean = cleaned(&path);
    let to = match folder {
        Some(folder) if folder.strip_suffix('/') == Some(&clean) => folder.to_owned(),
        _ if clean != path => escaped(&clean),
        _ => return None,
    };
    let query = uri.query().filter(|query| !query.is_empty());
    let to = query.map_or_else(|| to.clone(), |query| format!("{to}?{query}"));
    let is_get = *method == Method::GET;
    let link = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", html_escaped(&to));
    let mut response =
        page(307, "text/html; charset=utf-8", if is_get { link } else { String::new() });
    if !is_get && *method != Method::HEAD {
        response.headers_mut().remove(CONTENT_TYPE);
    }
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    Some(response)
}

/// Without empty steps, and steps to where one is or came from.
fn cleaned(path: &str) -> String {
    let mut steps = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    let end = if path.ends_with('/') && !steps.is_empty() { "/" } else { "" };
    format!("/{}{end}", steps.join("/"))
}

/// As net/url writes a path. (What was escaped is once more: Go takes the cleaned path for a plain one.)
fn escaped(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn html_escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

/// The values that a query has for a name.
pub fn asked(query: &str, name: &str) -> Vec<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    // (Go throws a pair away that it cannot read, and a semicolon is none of its business any more.)
    let pairs = pairs.filter(|(key, value)| !key.contains(';') && !value.contains(';'));
    let plain = |text: &str| unescaped(&text.replace('+', " "));
    pairs
        .filter_map(|(key, value)| Some((plain(key)?, plain(value)?)))
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        let cases = [
            ("/", "/"),
            ("//v3//kv/./range", "/v3/kv/range"),
            ("/v3/../health", "/health"),
            ("/../..", "/"),
            ("/v3/kv/..", "/v3"),
            ("/v3/kv/../", "/v3/"),
            ("/a/.", "/a"),
        ];
        for (path, clean) in cases {
            assert_eq!(cleaned(path), clean, "{path}");
        }
        assert_eq!(unescaped("/r%61nge%2f"), Some("/range/".to_owned()));
        assert_eq!((unescaped("/%6"), unescaped("/%zz"), unescaped("/%+1")), (None, None, None));
    }

    #[test]
    fn of_a_query_goes_what_go_cannot_read() {
        let query = "a=1&b=%32+x&a=3;&a=%z&a&ab=4";
        assert_eq!(
            (asked(query, "a"), asked(query, "b")),
            (vec!["1".into(), "".into()], vec!["2 x".into()])
        );
    }
}
