//! Resumption that ends with the client's certificate: a resumed session has
//! the authentication of the first handshake (RFC 8446, 2.2), so it must not
//! outlive the certificate.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::server::{ProducesTickets, StoresServerSessions};
use x509_cert::der::Decode;

/// Tickets or a cache of sessions that returns only sessions whose
/// certificates are valid now. The client of another session makes a full
/// handshake, as if the session had expired.
#[derive(Debug)]
pub(super) struct Valid<T: ?Sized>(pub Arc<T>);

impl ProducesTickets for Valid<dyn ProducesTickets> {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher).filter(|session| is_valid(session))
    }
}

impl StoresServerSessions for Valid<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.put(key, value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).filter(|session| is_valid(session))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key).filter(|session| is_valid(session))
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}

/// Returns whether no certificate of the session has expired.
fn is_valid(session: &[u8]) -> bool {
    is_valid_at(session, Duration::from_secs(UnixTime::now().as_secs()))
}

/// Returns whether a session is valid at a time. A session that cannot be read
/// is not.
fn is_valid_at(session: &[u8], now: Duration) -> bool {
    client_chain(session).is_some_and(|chain| {
        chain.iter().all(|der| {
            let certificate = x509_cert::Certificate::from_der(der);
            certificate
                .is_ok_and(|c| now <= c.tbs_certificate.validity.not_after.to_unix_duration())
        })
    })
}

/// Returns the client's certificates in a session as rustls writes it
/// (`ServerSessionValue`): server name, version, suite, secret, extended
/// master secret, chain, …. `None` if the session has another form.
fn client_chain(session: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = session;
    if flag(&mut rest)? {
        vector::<1>(&mut rest)?;
    }
    take(&mut rest, 4)?;
    vector::<1>(&mut rest)?;
    flag(&mut rest)?;
    let mut chain = Vec::new();
    if flag(&mut rest)? {
        let mut list = vector::<3>(&mut rest)?;
        while !list.is_empty() {
            chain.push(vector::<3>(&mut list)?);
        }
    }
    Some(chain)
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn flag(rest: &mut &[u8]) -> Option<bool> {
    match take(rest, 1)? {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// Reads a vector whose length has `N` bytes (RFC 8446, 3.4).
fn vector<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take(rest, N)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    take(rest, length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
        SupportedProtocolVersion,
    };
    use std::sync::Mutex;

    /// Records the sessions that it is to encrypt.
    #[derive(Debug)]
    struct Recorder(Mutex<Vec<Vec<u8>>>);

    impl ProducesTickets for Recorder {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            60
        }

        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            self.0.lock().unwrap().push(plain.to_vec());
            Some(b"ticket".to_vec())
        }

        fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }
    }

    const CLIENT: &[u8] = include_bytes!("../../tests/data/client.pem");
    const CLIENT_KEY: &[u8] = include_bytes!("../../tests/data/client-key.pem");

    fn certificate(pem: &[u8]) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    /// Returns the session that rustls puts into a ticket.
    fn session(
        provider: &Arc<CryptoProvider>,
        version: &'static SupportedProtocolVersion,
        authenticated: bool,
    ) -> Vec<u8> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(include_bytes!("../../tests/data/ca.pem"))).unwrap();
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let chain = vec![certificate(include_bytes!("../../tests/data/server.pem"))];
        let key = include_bytes!("../../tests/data/server-key.pem");
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).unwrap())
            .unwrap();
        let recorder = Arc::new(Recorder(Mutex::default()));
        server.ticketer = recorder.clone();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let client = match authenticated {
            true => client
                .with_client_auth_cert(
                    vec![certificate(CLIENT)],
                    PrivateKeyDer::from_pem_slice(CLIENT_KEY).unwrap(),
                )
                .unwrap(),
            false => client.with_no_client_auth(),
        };
        let name = "localhost".try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        let session = recorder.0.lock().unwrap().pop().expect("a ticket");
        session
    }

    /// The form of a session is private to rustls: this test notices a change
    /// of it.
    #[test]
    fn a_session_is_valid_as_long_as_the_client_s_certificate() {
        let provider = super::super::provider();
        let expected = certificate(CLIENT);
        let parsed = x509_cert::Certificate::from_der(&expected).unwrap();
        let end = parsed.tbs_certificate.validity.not_after.to_unix_duration();
        let second = Duration::from_secs(1);
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let anonymous = session(&provider, version, false);
            assert_eq!(client_chain(&anonymous), Some(Vec::new()));
            assert!(is_valid_at(&anonymous, end + second));

            let session = session(&provider, version, true);
            assert_eq!(client_chain(&session), Some(vec![expected.as_ref()]));
            assert!(is_valid_at(&session, end));
            assert!(!is_valid_at(&session, end + second));
            for cut in 0..40 {
                assert!(!is_valid_at(&session[..cut], end), "{cut}");
            }
        }
    }
}
