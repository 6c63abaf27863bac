//! Settings and their result: certificates, names, protocols, reloading.

use super::*;
use crate::api::{tls, TlsConfig, TlsInfo, TlsVersion, CHAIN, KEY};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};

/// A handler that reports what was agreed.
pub(super) fn informing() -> (Hooks, Events<TlsInfo>) {
    let (log, infos) = events();
    let hooks = Hooks::new(move |_, socket| {
        if text(socket)?.is_empty() {
            return Ok(socket.close());
        }
        log.add(socket.tls_info().expect("TLS"));
        socket.send(b"noted")
    });
    (hooks, infos)
}

pub(super) fn visit(server: &Server, config: ClientConfig, name: &str) -> CertificateDer<'static> {
    let mut client = client_with(server, config, name);
    client.send("x");
    client.expect("noted");
    let chain = client.0.session().look(|tls| tls.peer_certificates().unwrap()[0].clone());
    chain.into_owned()
}

/// K15, K25, K26: The info has what was agreed, field by field.
#[test]
fn the_info() {
    isolated(|| {
        for config in both_modes() {
            let settings = tls();
            settings.set_alpn(&[b"second/1", b"first/1"]).unwrap();
            settings.set_client_ca_pem(AUTHORITY, false).unwrap();
            let (hooks, infos) = informing();
            let server = start(config.tls(settings), hooks);

            let mut plain = client_config();
            plain.enable_sni = false;
            visit(&server, plain, "localhost");
            let info = infos.next();
            let (version, prefix) = match older() {
                true => (TlsVersion::V1_2, "TLS_ECDHE_ECDSA_WITH_"),
                false => (TlsVersion::V1_3, "TLS_"),
            };
            assert_eq!(info.version, version);
            assert!(info.cipher_suite.starts_with(prefix), "{}", info.cipher_suite);
            assert_eq!((info.alpn, info.server_name, info.resumed), (None, None, false));
            assert_eq!((info.peer_certificate, info.peer_subject), (None, None));

            let own: (&[u8], &[u8]) =
                (include_bytes!("../data/client.pem"), include_bytes!("../data/client-key.pem"));
            let mut full = client_config_of(older(), AUTHORITY, Some(own));
            full.alpn_protocols = vec![b"first/1".to_vec(), b"second/1".to_vec()];
            for resumed in [false, true] {
                visit(&server, full.clone(), "localhost");
                let info = infos.next();
                assert_eq!(info.alpn.as_deref(), Some(&b"second/1"[..]), "the server's order");
                assert_eq!(info.server_name.as_deref(), Some("localhost"));
                assert_eq!(info.resumed, resumed);
                assert_eq!(info.peer_subject.as_deref(), Some("CN=ann"));
                let expected = certificate(own.0);
                assert_eq!(info.peer_certificate.as_deref(), Some(expected.as_ref()));
            }
        }
    });
}

/// K17: A handshake fails where the client lacks what the server requires.
#[test]
fn refused_clients() {
    isolated(|| {
        for config in both_modes() {
            for case in ["certificate", "protocol", "version"] {
                let settings = tls();
                let mut client = client_config();
                match case {
                    "certificate" => settings.set_client_ca_pem(AUTHORITY, true).unwrap(),
                    "protocol" => {
                        settings.set_alpn(&[b"this"]).unwrap();
                        client.alpn_protocols = vec![b"that".to_vec()];
                    }
                    _ => {
                        settings.set_min_version(TlsVersion::V1_3).unwrap();
                        client = client_config_of(true, AUTHORITY, None);
                    }
                }
                let (hooks, told) = telling();
                let server = start(config.clone().tls(settings), hooks);
                let mut client = client_with(&server, client, "localhost");
                let error = client.0.read(&mut [0]).expect_err("{case}");
                assert!(error.to_string().contains("alert"), "{case}: {error}");
                drop(client);
                assert_eq!(told.next(), ("exception", Status::Handshake), "{case}");
                wait_idle(&server);
                told.none();
                assert_eq!(server.stats().handshake_failures, 1);
            }
        }
    });
}

/// K14: Both versions are served side by side.
#[test]
fn both_versions() {
    isolated(|| {
        let (hooks, infos) = informing();
        let server = start(non_blocking(1), hooks);
        for (old, version) in [(true, TlsVersion::V1_2), (false, TlsVersion::V1_3)] {
            visit(&server, client_config_of(old, AUTHORITY, None), "localhost");
            assert_eq!(infos.next().version, version);
        }
    });
}

/// K16: The certificate is chosen by the name that the client asks for, exact or wildcard.
#[test]
fn names() {
    isolated(|| {
        let settings = tls();
        settings.add_cert_pem(Some("*.example.org"), SECOND, SECOND_KEY).unwrap();
        let (hooks, _infos) = informing();
        let server = start(non_blocking(1).tls(settings), hooks);
        assert_eq!(visit(&server, client_config(), "localhost"), certificate(CHAIN));
        assert_eq!(visit(&server, client_config(), "www.example.org"), certificate(SECOND));
        assert_eq!(visit(&server, client_config(), "WWW.example.org"), certificate(SECOND));
    });
}

/// K18: New handshakes use the new settings, and open sessions go on. Bad settings change nothing.
#[test]
fn reloading() {
    isolated(|| {
        for config in both_modes() {
            let (hooks, _infos) = informing();
            let server = start(config.clone(), hooks);
            let mut open = Client::connect(&server).settled();
            assert_eq!(visit(&server, client_config(), "localhost"), certificate(CHAIN));
            let new = TlsConfig::new();
            new.add_cert_pem(None, SECOND, SECOND_KEY).unwrap();
            server.reload_tls(&new).unwrap();
            assert_eq!(visit(&server, client_config(), "localhost"), certificate(SECOND));
            open.send("x");
            open.expect("noted");
            assert_eq!(status(server.reload_tls(&TlsConfig::new())), Status::Certificate);
            assert_eq!(visit(&server, client_config(), "localhost"), certificate(SECOND));
            assert_eq!(status(new.add_cert_pem(None, CHAIN, KEY)), Status::State, "it is in use");
            server.reload_tls(&tls()).unwrap();
            assert_eq!(visit(&server, client_config(), "localhost"), certificate(CHAIN));
            assert_eq!(server.stats().handshake_failures, 0);
        }
        let plain = start_plain(non_blocking(1), Hooks::new(echo));
        assert_eq!(status(plain.reload_tls(&tls())), Status::State);
    });
}

/// K18: Under load no handshake fails because of a reload.
#[test]
fn reloading_under_load() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let clients: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            for _ in 0..60 {
                                Client::connect(&server).echo("hello");
                            }
                        })
                    })
                    .collect();
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        server.reload_tls(&tls()).unwrap();
                        // Between handshakes and not instead of them.
                        let_pass(ms(1));
                    }
                });
                let results: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
                over.store(true, Ordering::SeqCst);
                assert!(results.iter().all(Result::is_ok));
            });
            wait_idle(&server);
            assert_eq!((server.stats().handshakes, server.stats().handshake_failures), (180, 0));
        }
    });
}

/// K1, A20.3: TLS without a certificate is an error: there is no plain-text fallback.
#[test]
fn without_a_certificate() {
    isolated(|| {
        for config in both_modes() {
            let config = config.tls(TlsConfig::new());
            let result = Server::with_config("127.0.0.1:0", Hooks::new(echo), config)
                .and_then(|server| server.start_background());
            assert_eq!(status(result), Status::Certificate);
        }
    });
}

/// K27: The library installs no TLS provider for the process.
#[test]
fn no_provider_for_the_process() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            Client::connect(&server).echo("hello");
            assert!(rustls::crypto::CryptoProvider::get_default().is_none());
        }
    });
}

/// K19: The settings are frozen by their first use, and shared by servers.
#[test]
fn frozen_and_shared() {
    isolated(|| {
        let settings = tls();
        let servers: Vec<_> =
            both_modes().map(|config| start(config.tls(settings.clone()), Hooks::new(echo))).into();
        assert_eq!(status(settings.add_cert_pem(None, SECOND, SECOND_KEY)), Status::State);
        assert_eq!(status(settings.set_alpn(&[b"late"])), Status::State);
        assert_eq!(status(settings.set_min_version(TlsVersion::V1_3)), Status::State);
        assert_eq!(status(settings.set_client_ca_pem(AUTHORITY, true)), Status::State);
        assert_eq!(status(settings.set_session_cache(1)), Status::State);
        for server in &servers {
            Client::connect(server).echo("hello");
        }
    });
}

/// K20, A19.4, A20.4: The error says what is wrong with a certificate or key, and shows no key
/// material.
#[test]
fn bad_material() {
    let settings = TlsConfig::new();
    let secret = String::from_utf8_lossy(KEY).lines().nth(1).unwrap().to_owned();
    let key_lines = String::from_utf8_lossy(KEY).replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let cases: [(&[u8], &[u8], &str); 6] = [
        (b"", KEY, "no certificate"),
        (b"no PEM at all", KEY, "no certificate"),
        (CHAIN, b"", "no private key"),
        (CHAIN, SECOND_KEY, "not that of"),
        (CHAIN, key_lines.as_bytes(), "encrypted"),
        (b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n", KEY, "PEM"),
    ];
    for (chain, key, words) in cases {
        let error = settings.add_cert_pem(None, chain, key).expect_err("accepted");
        assert_eq!(error.status(), Status::Certificate);
        assert!(error.message().contains(words), "{}", error.message());
        assert!(!error.message().contains(&secret));
    }
    let error = settings.add_cert_file(None, "/no/such/file.pem", "/no/key").expect_err("read");
    assert_eq!((error.status(), error.os_code()), (Status::Certificate, libc::ENOENT));
    assert!(error.message().contains("/no/such/file.pem"), "{}", error.message());
    assert_eq!(format!("{settings:?}"), "TlsConfig");
    assert_eq!(status(settings.add_cert_pem(Some("a b"), CHAIN, KEY)), Status::Invalid);
    assert_eq!(status(settings.set_alpn(&[b""])), Status::Invalid);
}

/// A19.3: A certificate and its key in DER, as a chain of arrays; the error says which part is
/// missing.
#[test]
fn certificates_in_der() {
    use rustls::pki_types::PrivateKeyDer;
    isolated(|| {
        let key = |pem: &[u8]| PrivateKeyDer::from_pem_slice(pem).unwrap();
        let settings = TlsConfig::new();
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(CHAIN).map(|part| part.unwrap()).collect();
        let chain: Vec<&[u8]> = chain.iter().map(|part| part.as_ref()).collect();
        settings.add_cert_der(None, &chain, key(KEY).secret_der()).unwrap();
        let (hooks, _infos) = informing();
        let server = start(non_blocking(1).tls(settings.clone()), hooks);
        assert_eq!(visit(&server, client_config(), "localhost"), certificate(CHAIN));

        let other = TlsConfig::new();
        for (chain, secret) in [
            (&[][..], key(KEY).secret_der()),
            (&chain[..], key(SECOND_KEY).secret_der()),
            (&chain[..], b"no key".as_slice()),
            (&[b"no certificate".as_slice()][..], key(KEY).secret_der()),
        ] {
            let error = other.add_cert_der(None, chain, secret).expect_err("accepted");
            assert_eq!(error.status(), Status::Certificate, "{error}");
        }
        assert_eq!(
            status(settings.add_cert_der(None, &chain, key(KEY).secret_der())),
            Status::State
        );
    });
}

/// A client that comes twice; whether its session was resumed.
fn resumes(settings: TlsConfig, old: bool) -> bool {
    let (hooks, infos) = informing();
    let server = start(non_blocking(1).tls(settings), hooks);
    let config = client_config_of(old, AUTHORITY, None);
    visit(&server, config.clone(), "localhost");
    assert!(!infos.next().resumed);
    visit(&server, config, "localhost");
    infos.next().resumed
}

/// K21: Sessions resume by tickets; without tickets they resume from the cache, where there is one.
#[test]
fn tickets_and_the_cache() {
    isolated(|| {
        for old in [false, true] {
            for (tickets, sessions) in [(true, 0), (false, 100), (false, 0)] {
                let settings = tls();
                settings.set_tickets(tickets).unwrap();
                settings.set_session_cache(sessions).unwrap();
                assert_eq!(resumes(settings, old), tickets || sessions > 0, "{old} {tickets}");
            }
        }
    });
}

/// K21, A20.1: The cache has a bound, and what is beyond it leaves the settings as they were.
#[test]
fn the_cache_has_a_bound() {
    let settings = tls();
    settings.set_session_cache(1 << 20).unwrap();
    assert_eq!(status(settings.set_session_cache((1 << 20) + 1)), Status::Invalid);
    assert_eq!(status(settings.set_session_cache(usize::MAX)), Status::Invalid);
    assert!(Server::with_config("0", Hooks::new(echo), Config::new().tls(settings)).is_ok());
}

/// A20.4: Key material that was given where a name or a path belongs is in no message, whatever it
/// says.
#[test]
fn key_material_in_the_wrong_place() {
    let key = String::from_utf8_lossy(KEY).into_owned();
    let lines: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let settings = TlsConfig::new();
    let errors = [
        settings.add_cert_file(None, &key, &key).expect_err("no path"),
        settings.add_cert_pem(Some(&key), CHAIN, KEY).expect_err("no name"),
        settings.set_client_ca_file(&key, true).expect_err("no path"),
        Server::new(&key, Hooks::new(echo)).map(drop).expect_err("no service"),
        Server::with_config("0", Hooks::new(echo), Config::new().shutdown_port(key.clone()))
            .map(drop)
            .expect_err("no service"),
    ];
    for error in errors {
        let message = error.message();
        assert!(!lines.iter().any(|line| message.contains(line)), "{message}");
        assert!(!message.contains('\n') && message.len() < 300, "{message}");
    }
}
