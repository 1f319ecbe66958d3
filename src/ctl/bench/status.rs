//! How a call ended, read from header blocks at next to no cost: in the long run all blocks of a connection are references into its
//! table, and the same few bytes again and again.

use loona_hpack::Decoder;
use tonic::Code;

/// As a table of errors shows it: the code's name and the beginning of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

type Ended = Result<(), Failure>;

/// Of a message: the rest tells nobody more.
const TEXT_CHARS_MAX: usize = 80;
/// Blocks remembered: answers and trailers of success, and of the refusals that are repeated.
const KNOWN_MAX: usize = 16;

pub struct Statuses {
    decoder: Decoder<'static>,
    /// Since the table last changed.
    known: Vec<(Vec<u8>, Option<Ended>)>,
}

impl Default for Statuses {
    fn default() -> Statuses {
        Statuses { decoder: Decoder::new(), known: Vec::new() }
    }
}

impl Statuses {
    /// Every block of the connection, in order. `None`: it says no status.
    pub fn read(&mut self, block: &[u8]) -> Option<Ended> {
        if let Some((_, ended)) = self.known.iter().find(|(known, _)| known == block) {
            return ended.clone();
        }
        let ended = self.decode(block);
        if !is_references(block) || self.known.len() == KNOWN_MAX {
            self.known.clear();
        }
        if is_references(block) {
            self.known.push((block.to_vec(), ended.clone()));
        }
        ended
    }

    fn decode(&mut self, block: &[u8]) -> Option<Ended> {
        let (mut code, mut text, mut http) = (None, String::new(), None);
        let read = self.decoder.decode_with_cb(block, |name, value| match &*name {
            b"grpc-status" => code = std::str::from_utf8(&value).ok().and_then(|v| v.parse().ok()),
            b"grpc-message" => text = String::from_utf8_lossy(&value).into_owned(),
            b":status" => http = Some(String::from_utf8_lossy(&value).into_owned()),
            _ => {}
        });
        if read.is_err() {
            return Some(Err(Failure("headers that cannot be read".to_owned())));
        }
        match (code, http) {
            (Some(0), _) => Some(Ok(())),
            (Some(code), _) => {
                let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
                Some(Err(Failure(format!("{:?}: {text}", Code::from_i32(code)))))
            }
            (None, Some(http)) if http != "200" => Some(Err(Failure(format!("HTTP {http}")))),
            (None, _) => None,
        }
    }
}

/// Indexed fields only, by one byte each: a block that means the same until another one changes the table.
fn is_references(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte > 0x80 && *byte < 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(out: &mut Vec<u8>, name: &str, value: &str) {
        out.push(0x40);
        for text in [name, value] {
            out.push(text.len() as u8);
            out.extend_from_slice(text.as_bytes());
        }
    }

    #[test]
    fn what_was_spelled_out_once_is_known_by_its_reference() {
        let mut statuses = Statuses::default();
        let mut good = Vec::new();
        field(&mut good, "grpc-status", "0");
        assert_eq!(statuses.read(&[0x88]), None);
        assert_eq!(statuses.read(&good), Some(Ok(())));
        assert_eq!(statuses.read(&[0xbe]), Some(Ok(())));
        // The next entry takes the first place of the table.
        let mut bad = Vec::new();
        field(&mut bad, "grpc-status", "14");
        field(&mut bad, "grpc-message", "etcdserver: no leader");
        let failure = Some(Err(Failure("Unavailable: etcdserver: no leader".to_owned())));
        assert_eq!(statuses.read(&bad), failure);
        assert_eq!(statuses.read(&[0xbf, 0xbe]), failure);
        assert_eq!(statuses.read(&[0xc0]), Some(Ok(())));
        for _ in 0..100 {
            assert_eq!(statuses.read(&[0xbf, 0xbe]), failure);
        }
    }
}
