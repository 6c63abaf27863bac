//! TLS as rustls has it, in the server and in the clients. The cryptography's own random numbers
//! are not those of the seed, so the bytes of two runs differ. Their lengths do not: the
//! certificate has an Ed25519 key, whose signatures have one length. Those that rustls asks for in a
//! client are of the seed: they decide on the order in its ClientHello.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use net_server::TlsConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, CryptoProvider, GetRandomFailed, SecureRandom};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use crate::random::Random;
use crate::world::World;

thread_local! {
    /// The clock of the clients, in s. They are inside the world when they look at it.
    static NOW: Cell<u64> = const { Cell::new(0) };
    static RANDOM: RefCell<Random> = RefCell::new(Random::new(0));
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), GetRandomFailed> {
        RANDOM.with_borrow_mut(|random| buffer.fill_with(|| random.next() as u8));
        Ok(())
    }
}

#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(NOW.get())))
    }
}

/// The certificate is known to be the server's. To judge it is not the server's part.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The clients of one episode: those of each version share their sessions.
pub struct Clients([Arc<ClientConfig>; 2]);

impl Clients {
    pub fn new(random: &mut Random) -> Clients {
        RANDOM.set(Random::new(random.next()));
        Clients([&TLS13, &TLS12].map(|version| {
            let provider =
                CryptoProvider { secure_random: &Seeded, ..aws_lc_rs::default_provider() };
            let config = ClientConfig::builder_with_details(Arc::new(provider), Arc::new(Clock))
                .with_protocol_versions(&[version])
                .expect("the provider has suites of both versions")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody));
            Arc::new(config.with_no_client_auth())
        }))
    }

    pub fn connect(&self, random: &mut Random) -> ClientConnection {
        let config = self.0[usize::from(random.once_in(4))].clone();
        let name = ServerName::try_from("simulated").expect("a name");
        let mut tls = ClientConnection::new(config, name).expect("the configuration is good");
        tls.set_buffer_limit(None);
        tls
    }
}

/// The server's settings.
pub fn settings(random: &mut Random) -> Result<TlsConfig, net_server::Error> {
    let tls = TlsConfig::new();
    tls.add_cert_pem(
        None,
        include_bytes!("../data/simulated.pem"),
        include_bytes!("../data/simulated-key.pem"),
    )?;
    tls.set_tickets(!random.once_in(4))?;
    tls.set_session_cache(random.one_of(&[0, 0, 2, 100]))?;
    Ok(tls)
}

impl World {
    /// Before a client calls rustls.
    pub fn set_clock_of_clients(&self) {
        NOW.set(self.now / crate::world::SECOND);
    }
}
