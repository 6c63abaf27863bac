//! Certificates and keys: reading, matching, choosing by name.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::RootCertStore;
use x509_cert::der::{Decode, Encode};

use super::{key, pem, provider};
use crate::error::{quoted, Error, Status};

pub(super) fn bad(what: String) -> Error {
    Error::new(Status::Certificate, what)
}

/// Returns a path as errors write it.
pub(super) fn path_text(path: &Path) -> String {
    quoted(&path.display().to_string())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| {
        let text = format!("cannot read {}", path_text(path));
        Error::from_os(Status::Certificate, &text, &e)
    })
}

/// The place of a certificate, as errors write it, and the certificate.
pub(super) type Placed = (String, CertificateDer<'static>);

pub(super) fn from_pem(text: &[u8], name: &str) -> Result<Vec<Placed>, Error> {
    let list = pem::certificates(text, name)?;
    Ok(list.into_iter().map(|(place, der)| (place, der.into())).collect())
}

pub(super) fn from_der(chain: &[&[u8]], name: &str) -> Result<Vec<Placed>, Error> {
    if chain.is_empty() {
        return Err(bad(format!("{name}: there is no certificate in it")));
    }
    let placed = |(i, der): (usize, &&[u8])| {
        (format!("{name}: certificate {}", i + 1), CertificateDer::from(der.to_vec()))
    };
    Ok(chain.iter().enumerate().map(placed).collect())
}

/// Joins a chain and its key, after a check that they belong together.
pub(super) fn certified_key(
    chain: Vec<Placed>,
    chain_name: &str,
    key: PrivateKeyDer<'static>,
    key_name: &str,
) -> Result<Arc<CertifiedKey>, Error> {
    let signer = provider().key_provider.load_private_key(key.clone_key());
    let signer = signer.map_err(|_| bad(format!("{key_name}: {}", key::why_unusable(&key))))?;
    // webpki refuses to parse X.509 v1, which a server's own certificate may
    // be, so this function compares the keys itself. It parses the other
    // certificates only to check that they are whole.
    let parsed = chain.iter().map(|(place, der)| {
        x509_cert::Certificate::from_der(der)
            .map_err(|e| bad(format!("{place}: not an X.509 certificate: {e}")))
    });
    let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
    let public = &parsed[0].tbs_certificate.subject_public_key_info;
    if let Some(why) = key::why_not_comparable(public) {
        return Err(bad(format!("{}: {why}", chain[0].0)));
    }
    let public = public.to_der().map_err(|e| bad(format!("{chain_name}: bad public key: {e}")))?;
    if signer.public_key().is_some_and(|own| own.as_ref() != public) {
        return Err(bad(format!("{key_name}: the key is not that of {chain_name}")));
    }
    let chain = chain.into_iter().map(|(_, der)| der).collect();
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

pub(super) fn roots(text: &[u8], name: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for (place, certificate) in from_pem(text, name)? {
        roots.add(certificate).map_err(|e| bad(format!("{place}: not an authority: {e}")))?;
    }
    Ok(roots)
}

/// The certificates by the name that clients ask for (RFC 6066, section 3).
#[derive(Clone, Debug, Default)]
pub(super) struct Resolver {
    /// The names are in lower case; `*.example.org` stands for one label in
    /// front. An ordered map needs no random numbers, which may fail.
    names: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    default: Vec<Arc<CertifiedKey>>,
    /// `default` is the first certificate that was added with a name, because
    /// none was added without a name yet.
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
            return Err(Error::new(
                Status::Invalid,
                format!("not a server name: {}", quoted(name)),
            ));
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
        // Of several certificates for one name, take the first with a key
        // whose signatures the client can verify.
        let fits =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(fits).or_else(|| candidates.first()).cloned()
    }
}

/// Returns the subject of a certificate as RFC 4514 writes it.
pub(super) fn subject(certificate: &[u8]) -> String {
    x509_cert::Certificate::from_der(certificate)
        .map_or(String::new(), |c| c.tbs_certificate.subject.to_string())
}
