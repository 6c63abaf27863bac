//! Private keys: how they are read, and why one cannot be used.

#![forbid(unsafe_code)]

use rustls::pki_types::PrivateKeyDer;
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef};
use x509_cert::der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::cert::bad;
use super::pem;
use crate::error::Error;

/// RFC 8017, appendix A.1.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 5480, 2.1.1.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

const ENCRYPTED: &str = "the key is encrypted, and there is no passphrase";
const UNKNOWN: &str = "not a key of a supported type";
const EXPLICIT: &str =
    "its curve is given by explicit parameters, which is not supported, and not by name";
const COMPRESSED: &str = "its public key is a compressed point, which is not supported";

/// Reads the first private key of a PEM text.
pub(super) fn from_pem(text: &[u8], name: &str) -> Result<PrivateKeyDer<'static>, Error> {
    let blocks = pem::blocks(text, name)?;
    let Some(block) = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY")) else {
        return Err(bad(format!("{name}: there is no private key in it")));
    };
    if block.encrypted || block.label == "ENCRYPTED PRIVATE KEY" {
        return Err(block.bad(ENCRYPTED));
    }
    match block.label.as_str() {
        "PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs8(block.decode()?.into())),
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(block.decode()?.into())),
        "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(block.decode()?.into())),
        _ => Err(block.bad(UNKNOWN)),
    }
}

/// Reads a key in DER: PKCS #8, PKCS #1 or SEC 1.
pub(super) fn from_der(der: &[u8], name: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::try_from(der.to_vec()).map_err(|_| {
        // EncryptedPrivateKeyInfo (RFC 5208, 6) begins with an algorithm.
        let first = sequence(der).and_then(|fields| Some(fields.first()?.tag()));
        let why = if first == Some(Tag::Sequence) { ENCRYPTED } else { "not a private key in DER" };
        bad(format!("{name}: {why}"))
    })
}

/// Returns why the provider refuses a key. The text names types and lengths,
/// never the contents of the key.
pub(super) fn why_unusable(key: &PrivateKeyDer<'_>) -> String {
    let why = match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => ec(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => pkcs8(key.secret_pkcs8_der()),
        _ => None,
    };
    why.unwrap_or_else(|| UNKNOWN.into())
}

/// Returns why a certificate's public key cannot be compared with a private
/// one; `None` if it can.
pub(super) fn why_not_comparable(key: &SubjectPublicKeyInfoOwned) -> Option<&'static str> {
    if key.algorithm.oid != EC {
        return None;
    }
    let parameters = key.algorithm.parameters.as_ref();
    if parameters.is_some_and(|parameters| parameters.tag() == Tag::Sequence) {
        return Some(EXPLICIT);
    }
    is_compressed(key.subject_public_key.raw_bytes()).then_some(COMPRESSED)
}

/// Returns whether a point is in the compressed form (SEC 1, 2.3.3).
fn is_compressed(point: &[u8]) -> bool {
    matches!(point.first(), Some(2 | 3))
}

fn pkcs8(der: &[u8]) -> Option<String> {
    let fields = sequence(der)?;
    let algorithm = elements(fields.get(1)?.value())?;
    let inner = fields.get(2)?.decode_as::<OctetStringRef<'_>>().ok()?.as_bytes();
    match algorithm.first()?.decode_as::<ObjectIdentifier>().ok()? {
        RSA => rsa(inner),
        EC if algorithm.get(1)?.tag() == Tag::Sequence => Some(EXPLICIT.into()),
        EC => ec(inner),
        _ => None,
    }
}

/// Returns why an RSA key (RFC 8017, appendix A.1.2) is refused: the provider
/// accepts 2048 to 8192 bits.
fn rsa(der: &[u8]) -> Option<String> {
    let modulus = sequence(der)?.get(1)?.decode_as::<UintRef<'_>>().ok()?;
    let first = modulus.as_bytes().first()?;
    let bits = modulus.as_bytes().len() * 8 - first.leading_zeros() as usize;
    let bound = match bits {
        ..2048 => "too short, 2048 is the least",
        8193.. => "too long, 8192 is the most",
        _ => return None,
    };
    Some(format!("an RSA key of {bits} bits is {bound}"))
}

/// Returns why an EC key (RFC 5915, 3) is refused.
fn ec(der: &[u8]) -> Option<String> {
    for field in sequence(der)? {
        let Tag::ContextSpecific { number, .. } = field.tag() else { continue };
        let inner = *elements(field.value())?.first()?;
        if number == TagNumber::N0 && inner.tag() == Tag::Sequence {
            return Some(EXPLICIT.into());
        }
        // The first byte of a bit string counts its unused bits.
        if number == TagNumber::N1 && is_compressed(inner.value().get(1..)?) {
            return Some(COMPRESSED.into());
        }
    }
    None
}

fn sequence(der: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    let whole = AnyRef::from_der(der).ok()?;
    (whole.tag() == Tag::Sequence).then(|| elements(whole.value())).flatten()
}

fn elements(bytes: &[u8]) -> Option<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let mut list = Vec::new();
    while !reader.is_finished() {
        list.push(reader.decode().ok()?);
    }
    Some(list)
}
