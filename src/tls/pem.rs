//! PEM (RFC 7468) as OpenSSL reads it: it ignores text around the blocks, a
//! byte order mark and blanks at the end of a line. A block that cannot be
//! read is an error and is never skipped silently.

#![forbid(unsafe_code)]

use rustls::pki_types::pem::{PemObject, SectionKind};

use super::cert::bad;
use crate::error::{quoted, Error};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) struct Block {
    /// The name of the text and the number of the block, as errors write them.
    pub place: String,
    /// `CERTIFICATE`, `PRIVATE KEY`…
    pub label: String,
    /// The block has the header of an encrypted key (RFC 1421, 4.6.1.1).
    pub encrypted: bool,
    /// Base64 without blanks.
    body: Vec<u8>,
}

impl Block {
    pub fn decode(&self) -> Result<Vec<u8>, Error> {
        // The label is that of a key, because the decoder decodes a key in
        // constant time.
        let text =
            [&b"-----BEGIN PRIVATE KEY-----\n"[..], &self.body, b"\n-----END PRIVATE KEY-----"];
        let decoded = <(SectionKind, Vec<u8>)>::from_pem_slice(&text.concat());
        // The decoder's own message would show bytes of the text.
        decoded.map(|(_, bytes)| bytes).map_err(|_| self.bad("bad PEM: it is not base64"))
    }

    pub fn bad(&self, why: &str) -> Error {
        bad(format!("{}: {why}", self.place))
    }
}

/// Returns the blocks of a text, in order.
pub(super) fn blocks(text: &[u8], name: &str) -> Result<Vec<Block>, Error> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in text.split(|b| matches!(b, b'\n' | b'\r')) {
        // The text may be several files in one, each with a byte order mark.
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line).trim_ascii();
        if let Some(rest) = line.strip_prefix(b"-----BEGIN ") {
            if let (true, Some(last)) = (open, blocks.last()) {
                return Err(last.bad("bad PEM: it has no end"));
            }
            let label = rest.strip_suffix(b"-----").unwrap_or_default();
            let block = Block {
                place: format!("{name}: block {}", blocks.len() + 1),
                label: String::from_utf8_lossy(label).into_owned(),
                encrypted: false,
                body: Vec::new(),
            };
            if label.is_empty() {
                return Err(block.bad("bad PEM: its first line is not whole"));
            }
            blocks.push(block);
            open = true;
        } else if let Some(rest) = line.strip_prefix(b"-----END ") {
            match blocks.last() {
                Some(last) if open => {
                    if rest.strip_suffix(b"-----") != Some(last.label.as_bytes()) {
                        return Err(last.bad("bad PEM: its last line is not that of its first"));
                    }
                }
                _ => return Err(bad(format!("{name}: bad PEM: a block has no first line"))),
            }
            open = false;
        } else if let (true, Some(last)) = (open, blocks.last_mut()) {
            // Headers stand before the base64.
            if last.body.is_empty() && line.contains(&b':') {
                last.encrypted |= line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
            } else {
                last.body.extend(line.iter().filter(|b| !b.is_ascii_whitespace()));
            }
        }
    }
    match blocks.last() {
        Some(last) if open => Err(last.bad("bad PEM: it has no end")),
        _ => Ok(blocks),
    }
}

/// Returns the certificates of a text, each with its place. Blocks of the
/// known other kinds are skipped.
pub(super) fn certificates(text: &[u8], name: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut list = Vec::new();
    for block in blocks(text, name)? {
        match block.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => {
                list.push((block.place.clone(), block.decode()?));
            }
            other if ["KEY", "PARAMETERS", "CRL", "REQUEST"].iter().any(|s| other.ends_with(s)) => {
            }
            other => return Err(block.bad(&format!("{} is not supported", quoted(other)))),
        }
    }
    if list.is_empty() {
        return Err(bad(format!("{name}: there is no certificate in it")));
    }
    Ok(list)
}
