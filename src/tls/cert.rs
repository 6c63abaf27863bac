//! Certificates and keys: reading, matching, choosing by name.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::RootCertStore;
use x509_cert::der::{Decode, Encode};

use super::provider;
use crate::error::{reason, Error, Status};

fn bad(what: String) -> Error {
    Error::new(Status::Certificate, what)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| {
        let text = format!("cannot read \"{}\"", path.display());
        Error::from_os(Status::Certificate, &text, &e)
    })
}

fn pem_error(name: &str, what: &str, error: pem::Error) -> Error {
    match error {
        pem::Error::NoItemsFound => bad(format!("{name}: there is no {what} in it")),
        pem::Error::Io(e) => bad(format!("{name}: {}", reason(&e))),
        // rustls would show bytes of the file, which may be a key's.
        pem::Error::MissingSectionEnd { .. } => bad(format!("{name}: bad PEM: it has no end")),
        _ => bad(format!("{name}: bad PEM")),
    }
}

fn certificates(text: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let list = list.map_err(|e| pem_error(name, "certificate", e))?;
    if list.is_empty() {
        return Err(pem_error(name, "certificate", pem::Error::NoItemsFound));
    }
    Ok(list)
}

/// A chain and its key, checked to belong together.
pub(super) fn certified_key(
    chain: &[u8],
    chain_name: &str,
    key: &[u8],
    key_name: &str,
) -> Result<Arc<CertifiedKey>, Error> {
    let chain = certificates(chain, chain_name)?;
    if is_encrypted(key) {
        return Err(bad(format!("{key_name}: the key is encrypted, and there is no passphrase")));
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|e| pem_error(key_name, "private key", e))?;
    let signer = provider().key_provider.load_private_key(key);
    // The reason names types and lengths, never what is in the key.
    let signer = signer.map_err(|_| bad(format!("{key_name}: not a key of a supported type")))?;
    // webpki refuses to parse X.509 v1, which a server's own certificate may
    // be, so the comparison is ours.
    let cert = x509_cert::Certificate::from_der(&chain[0])
        .map_err(|e| bad(format!("{chain_name}: not an X.509 certificate: {e}")))?;
    let public = cert.tbs_certificate.subject_public_key_info.to_der();
    let public = public.map_err(|e| bad(format!("{chain_name}: bad public key: {e}")))?;
    if signer.public_key().is_some_and(|own| own.as_ref() != public) {
        return Err(bad(format!("{key_name}: the key is not that of {chain_name}")));
    }
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

/// PKCS #8 or the older form with headers (RFC 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED")
}

pub(super) fn roots(text: &[u8], name: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text, name)? {
        roots.add(certificate).map_err(|e| bad(format!("{name}: not an authority: {e}")))?;
    }
    Ok(roots)
}

/// The certificates by the name that clients ask for (RFC 6066, section 3).
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    /// Lower case; `*.example.org` for one label in front.
    names: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
    /// No certificate was added without a name yet.
    default_is_first: bool,
}

impl Resolver {
    pub fn is_empty(&self) -> bool {
        self.default.is_empty()
    }

    pub fn add(&mut self, name: Option<&str>, key: Arc<CertifiedKey>) -> Result<(), Error> {
        let Some(name) = name else {
            if self.default_is_first {
                self.default.clear();
                self.default_is_first = false;
            }
            self.default.push(key);
            return Ok(());
        };
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let label = |l: &str| {
            !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !plain.split('.').all(label) {
            return Err(Error::new(Status::Invalid, format!("not a server name: {name:?}")));
        }
        if self.default.is_empty() {
            self.default.push(key.clone());
            self.default_is_first = true;
        }
        self.names.entry(name.to_ascii_lowercase()).or_default().push(key);
        Ok(())
    }

    fn candidates(&self, name: Option<&str>) -> &[Arc<CertifiedKey>] {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.default };
        let name = name.trim_end_matches('.');
        let wild = || {
            let (_, parent) = name.split_once('.')?;
            self.names.get(&format!("*.{parent}"))
        };
        self.names.get(name).or_else(wild).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(hello.server_name());
        // Of several for one name the first whose key the client can verify.
        let fits =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(fits).or_else(|| candidates.first()).cloned()
    }
}

/// The subject of a certificate as RFC 4514 writes it.
pub(super) fn subject(certificate: &[u8]) -> String {
    x509_cert::Certificate::from_der(certificate)
        .map_or(String::new(), |c| c.tbs_certificate.subject.to_string())
}
