//! Services of one server with TLS settings of their own.

use super::*;
use crate::api::{tls, TlsConfig, CHAIN};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

/// The address of a service.
fn tcp_of(server: &Server, service: usize) -> TcpStream {
    let tcp = TcpStream::connect(server.service_address(service)).unwrap();
    tcp.set_read_timeout(Some(SOON)).unwrap();
    tcp
}

fn tls_client_of(server: &Server, service: usize) -> Client {
    let stream = Stream::with(tcp_of(server, service), client_config(), "localhost");
    Client::set_up(stream).unwrap()
}

fn certificate_of(server: &Server, service: usize) -> CertificateDer<'static> {
    let mut client = tls_client_of(server, service);
    client.echo("hello");
    let chain = client.0.session().look(|tls| tls.peer_certificates().unwrap()[0].clone());
    chain.into_owned()
}

/// A plain service, one with TLS, one plain, and one with another certificate.
fn of_four_services(config: Config) -> Server {
    let server = Server::with_config("127.0.0.1:0", Hooks::new(echo), config).unwrap();
    let second = TlsConfig::new();
    second.add_cert_pem(None, SECOND, SECOND_KEY).unwrap();
    assert_eq!(server.add_service_tls("127.0.0.1:0", &tls()).unwrap(), 1);
    assert_eq!(server.add_service("127.0.0.1:0").unwrap(), 2);
    assert_eq!(server.add_service_tls("127.0.0.1:0", &second).unwrap(), 3);
    assert_eq!(status(second.set_alpn(&[b"late"])), Status::State, "it is in use");
    server.start_background().unwrap();
    server
}

/// V4, A6.2: Services with and without TLS stand beside each other; nothing plain leaves where
/// there is TLS.
#[test]
fn plain_and_tls_services() {
    isolated(|| {
        for config in both_modes() {
            let server = of_four_services(config);
            for service in [0, 2] {
                Client::plain(server.service_address(service)).echo("in the clear");
            }
            assert_eq!(certificate_of(&server, 1), certificate(CHAIN));
            assert_eq!(certificate_of(&server, 3), certificate(SECOND));
            for service in [1, 3] {
                let mut tcp = tcp_of(&server, service);
                tcp.write_all(b"in the clear\n").unwrap();
                let answer = raw_rest(&tcp);
                assert!(!contains(&answer, b"in the clear"));
            }
            server.stop().unwrap();
            let stats = server.stats();
            assert_eq!((stats.handshakes, stats.handshake_failures), (2, 2));
            assert_settled(&server);
        }
    });
}

/// V4: The TLS of the configuration is for the first service alone. A service that cannot have its
/// TLS is not added.
#[test]
fn the_configuration_has_the_tls_of_the_first() {
    isolated(|| {
        for config in both_modes() {
            let server = unstarted(config, Hooks::new(echo));
            let empty = TlsConfig::new();
            assert_eq!(status(server.add_service_tls("127.0.0.1:0", &empty)), Status::Certificate);
            assert_eq!(server.add_service("127.0.0.1:0").unwrap(), 1);
            server.start_background().unwrap();
            Client::plain(server.service_address(1)).echo("in the clear");
            assert_eq!(certificate_of(&server, 0), certificate(CHAIN));
        }
    });
}

/// V5: A reload is for one service; it makes no plain service one with TLS.
#[test]
fn each_service_is_reloaded_by_itself() {
    isolated(|| {
        for config in both_modes() {
            let server = of_four_services(config);
            let mut open = tls_client_of(&server, 3);
            open.echo("before");
            server.reload_service_tls(3, &tls()).unwrap();
            assert_eq!(certificate_of(&server, 3), certificate(CHAIN));
            open.echo("after");
            for (service, expected) in
                [(0, Status::State), (2, Status::State), (4, Status::Invalid)]
            {
                assert_eq!(status(server.reload_service_tls(service, &tls())), expected);
            }
            let empty = TlsConfig::new();
            assert_eq!(status(server.reload_service_tls(1, &empty)), Status::Certificate);
            let second = TlsConfig::new();
            second.add_cert_pem(None, SECOND, SECOND_KEY).unwrap();
            server.reload_service_tls(1, &second).unwrap();
            assert_eq!(certificate_of(&server, 1), certificate(SECOND));
            assert_eq!(certificate_of(&server, 3), certificate(CHAIN));
            Client::plain(server.service_address(0)).echo("in the clear");
        }
    });
}

/// V4, A6.2: A client that is refused is talked to where its service is plain, and not where it has
/// TLS.
#[test]
fn a_refusal_by_the_service() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, _| Ok(inside.wait()))
            .on_exception(|_, socket, _| socket.expect("a socket").send(b"too busy"));
        let config = blocking(2).max_retry(1).retry_interval(ms(50));
        let server = Server::with_config("127.0.0.1:0", hooks, config).unwrap();
        server.add_service_tls("127.0.0.1:0", &tls()).unwrap();
        server.start_background().unwrap();
        let busy: Vec<_> = (0..2).map(|_| Client::plain(server.address())).collect();
        gate.reached_by(2);
        for (service, told) in [(0, true), (1, false)] {
            let mut tcp = tcp_of(&server, service);
            tcp.write_all(&by_hand().1).unwrap();
            assert_eq!(contains(&raw_rest(&tcp), b"too busy"), told, "service {service}");
        }
        gate.open();
        drop(busy);
        wait_idle(&server);
    });
}

/// Y1, Y8, K1: TLS over a unix socket, to its close_notify; an abort sends none.
#[test]
fn tls_over_a_unix_socket() {
    isolated(|| {
        let name = format!("ns-tls-{}", std::process::id());
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| {
                let words = text(socket)?;
                socket.send(words.as_bytes())?;
                match words.as_str() {
                    "abort" => socket.abort(),
                    _ => socket.close(),
                }
                Ok(())
            });
            let server = server_at(&format!("unix:@{name}"), config, hooks);
            server.start_background().unwrap();
            for (words, in_order) in [("hello", true), ("abort", false)] {
                let address = SocketAddr::from_abstract_name(&name).unwrap();
                let mut unix = UnixStream::connect_addr(&address).unwrap();
                unix.set_read_timeout(Some(SOON)).unwrap();
                let server_name = ServerName::try_from("localhost").unwrap();
                let mut session =
                    ClientConnection::new(Arc::new(client_config()), server_name).unwrap();
                let mut stream = rustls::Stream::new(&mut session, &mut unix);
                stream.write_all(words.as_bytes()).unwrap();
                let mut heard = String::new();
                let end = stream.read_to_string(&mut heard);
                assert_eq!((end.is_ok(), heard.as_str()), (in_order, words));
            }
            server.stop().unwrap();
            assert_settled(&server);
        }
    });
}
