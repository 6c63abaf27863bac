//! Tickets whose keys the program sets.

use super::settings::{informing, visit};
use super::*;
use crate::api::{tls, TlsConfig, TlsInfo};
use std::sync::atomic::{AtomicBool, Ordering};

const KEY: usize = net_server::TICKET_KEY_LEN;

/// Keys that differ in all their parts, one behind the other.
fn keys(numbers: &[u8]) -> Vec<u8> {
    numbers.iter().flat_map(|number| [*number; KEY]).collect()
}

fn with_keys(numbers: &[u8]) -> TlsConfig {
    let settings = tls();
    settings.set_ticket_keys(&keys(numbers)).unwrap();
    settings
}

/// Servers that share nothing but what is in their keys, as processes do.
struct Servers(Vec<(Server, TlsConfig, Events<TlsInfo>)>);

impl Servers {
    fn start(config: &Config, settings: Vec<TlsConfig>) -> Servers {
        let one = |settings: TlsConfig| {
            let (hooks, infos) = informing();
            (start(config.clone().tls(settings.clone()), hooks), settings, infos)
        };
        Servers(settings.into_iter().map(one).collect())
    }

    /// Returns whether this visit of a client resumes a session.
    fn resumes(&self, server: usize, client: &ClientConfig) -> bool {
        let (server, _, infos) = &self.0[server];
        visit(server, client.clone(), "localhost");
        infos.next().resumed
    }

    fn set(&self, server: usize, numbers: &[u8]) {
        self.0[server].1.set_ticket_keys(&keys(numbers)).unwrap();
    }

    fn no_failures(&self) {
        for (server, ..) in &self.0 {
            wait_idle(server);
            assert_eq!(server.stats().handshake_failures, 0);
        }
    }
}

/// In both modes, by both versions of TLS; each time a client that has no ticket yet.
fn everywhere(body: impl Fn(&Config, ClientConfig)) {
    for config in both_modes() {
        for old in [false, true] {
            body(&config, client_config_of(old, AUTHORITY, None));
        }
    }
}

/// TK1: A ticket of one server is resumed by another that has the same key, and by none else.
#[test]
fn a_ticket_of_another_server() {
    isolated(|| {
        everywhere(|config, client| {
            let settings = vec![with_keys(&[1]), with_keys(&[1]), with_keys(&[2]), tls()];
            let servers = Servers::start(config, settings);
            assert!(!servers.resumes(0, &client));
            assert!(servers.resumes(1, &client), "the same key");
            assert!(servers.resumes(0, &client), "and back");
            assert!(!servers.resumes(2, &client), "another key");
            assert!(!servers.resumes(3, &client), "a key of the process's own");
            assert!(servers.resumes(3, &client));
            assert!(!servers.resumes(0, &client));
            servers.no_failures();
        });
    });
}

/// TK2: The first key seals and all open: a rotation costs no full handshake, until the old key is
/// removed.
#[test]
fn a_rotation() {
    isolated(|| {
        everywhere(|config, client| {
            let servers = Servers::start(config, vec![with_keys(&[1]), with_keys(&[1])]);
            assert!(!servers.resumes(0, &client));
            servers.set(1, &[1, 2]);
            servers.set(0, &[2, 1]);
            assert!(servers.resumes(0, &client), "the old key opens; the new one seals");
            assert!(servers.resumes(1, &client), "which is there to open");
            servers.set(1, &[2, 1]);
            servers.set(0, &[2]);
            assert!(!servers.resumes(0, &client), "the key has been removed");
            servers.set(1, &[2]);
            assert!(servers.resumes(1, &client));
            // All of the largest number open.
            let most: Vec<_> = (1..=16).rev().collect();
            servers.set(0, &most);
            assert!(servers.resumes(0, &client));
            assert!(!servers.resumes(1, &client), "16 had sealed");
            servers.set(0, &[3]);
            assert!(!servers.resumes(0, &client));
            servers.no_failures();
        });
    });
}

/// TK3: New keys reach all that uses the frozen settings: a service, STARTTLS, a reload.
#[test]
fn all_that_uses_the_settings() {
    isolated(|| {
        everywhere(|config, client| {
            let settings = with_keys(&[1]);
            let (log, infos) = events();
            let upgrade = settings.clone();
            let serve = move |socket: &mut crate::api::Socket<'_>| {
                let line = text(socket)?;
                match line.as_str() {
                    "" => socket.close(),
                    "STARTTLS" => {
                        socket.send(b"go")?;
                        socket.starttls(&upgrade, b"")?;
                    }
                    _ => {
                        log.add(socket.tls_info().expect("TLS").resumed);
                        socket.send(b"noted")?;
                    }
                }
                Ok::<_, crate::api::Error>(!line.is_empty())
            };
            let blocking = !config.non_blocking;
            let hooks = Hooks::new(move |_, socket| {
                while serve(socket)? && blocking {}
                Ok(())
            });
            let server = Server::with_config("127.0.0.1:0", hooks, config.clone()).unwrap();
            server.add_service_tls("127.0.0.1:0", &settings).unwrap();
            server.add_service_tls("127.0.0.1:0", &tls()).unwrap();
            server.start_background().unwrap();
            server.reload_service_tls(2, &settings).unwrap();

            let resumes = |service: usize| {
                let mut tcp = TcpStream::connect(server.service_address(service)).unwrap();
                tcp.set_read_timeout(Some(SOON)).unwrap();
                if service == 0 {
                    tcp.write_all(b"STARTTLS").unwrap();
                    tcp.read_exact(&mut [0; 2]).unwrap();
                }
                let stream = Stream::with(tcp, client.clone(), "localhost");
                let mut client = Client::set_up(stream).unwrap();
                client.send("x");
                client.expect("noted");
                infos.next()
            };
            assert!(!resumes(0));
            for new in 2..4 {
                for service in 0..3 {
                    assert!(resumes(service), "service {service}, key {new}");
                }
                settings.set_ticket_keys(&keys(&[new])).unwrap();
                assert!(!resumes(usize::from(new - 1)), "key {new}");
            }
            wait_idle(&server);
            assert_eq!(server.stats().handshake_failures, 0);
        });
    });
}

/// TK4: Another number of bytes is an error, and the keys stay as they were.
#[test]
fn bad_keys() {
    isolated(|| {
        let client = client_config();
        let servers = Servers::start(&non_blocking(1), vec![with_keys(&[1])]);
        assert!(!servers.resumes(0, &client));
        for settings in [&servers.0[0].1, &tls()] {
            for length in [0, 1, KEY - 1, KEY + 1, 2 * KEY - 1, 17 * KEY, 1 << 20] {
                let error = settings.set_ticket_keys(&vec![7; length]).expect_err("accepted");
                assert_eq!(error.status(), Status::Invalid);
                assert!(error.message().contains("1 to 16 keys of 80 bytes"), "{error}");
                assert!(error.message().contains(&format!("not {length} bytes")), "{error}");
            }
        }
        assert!(servers.resumes(0, &client));
    });
}

/// TK5: Without tickets the keys are not used: no session resumes.
#[test]
fn no_tickets() {
    isolated(|| {
        everywhere(|config, client| {
            let settings = with_keys(&[1]);
            settings.set_tickets(false).unwrap();
            let servers = Servers::start(config, vec![settings, with_keys(&[1])]);
            for _ in 0..2 {
                assert!(!servers.resumes(0, &client));
            }
            servers.set(0, &[1]);
            assert!(!servers.resumes(1, &client));
            assert!(!servers.resumes(0, &client));
            servers.no_failures();
        });
    });
}

/// TK6: Keys change beside handshakes, none of which fails.
#[test]
fn rotation_under_load() {
    isolated(|| {
        for config in both_modes() {
            let settings = with_keys(&[0, 1]);
            let server = start(config.tls(settings.clone()), Hooks::new(echo));
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let client = |old| {
                    let (server, client) = (&server, client_config_of(old, AUTHORITY, None));
                    scope.spawn(move || {
                        for _ in 0..60 {
                            client_with(server, client.clone(), "localhost").echo("hello");
                        }
                    })
                };
                let clients = [false, true, older()].map(client);
                scope.spawn(|| {
                    let mut number = 0u8;
                    while !over.load(Ordering::SeqCst) {
                        number = number.wrapping_add(1);
                        let both = keys(&[number, number.wrapping_sub(1)]);
                        settings.set_ticket_keys(&both).unwrap();
                        let_pass(ms(1));
                    }
                });
                let results = clients.map(|client| client.join());
                over.store(true, Ordering::SeqCst);
                assert!(results.iter().all(Result::is_ok));
            });
            wait_idle(&server);
            assert_eq!((server.stats().handshakes, server.stats().handshake_failures), (180, 0));
        }
    });
}
