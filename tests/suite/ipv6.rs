//! IPv6.

use crate::api::{Hooks, Server, Status};
use crate::support::*;

fn started(service: &str, config: crate::api::Config, hooks: Hooks) -> Server {
    let server = server_at(service, config, hooks);
    server.start_background().unwrap();
    server
}

/// Tells both addresses of a connection as the server sees them.
fn tell_addresses() -> Hooks {
    Hooks::new(|_, socket| {
        text(socket)?;
        let (peer, local) = (socket.peer().expect("a peer"), socket.local().expect("ours"));
        socket.send(format!("{peer} to {local}").as_bytes())?;
        socket.close();
        Ok(())
    })
}

#[track_caller]
fn expect_addresses(mut client: Client) {
    client.send("who am I?");
    let ours = client.0.peer_addr().unwrap();
    client.expect_last(&format!("{} to {ours}", client.local()));
}

/// I1: One dual-stack socket serves both families, and shows IPv4 peers as IPv4.
#[test]
fn both_families_on_one_socket() {
    isolated(|| {
        for config in both_modes() {
            let server = started("0", config.use_ipv6(true), tell_addresses());
            assert_eq!(listening_sockets().len(), 1);
            for host in ["127.0.0.1", "::1"] {
                expect_addresses(Client::to((host, server.port())));
            }
        }
    });
}

/// I2: Without `use_ipv6` a wildcard service listens for IPv4 only.
#[test]
fn off_by_default() {
    isolated(|| {
        let server = started("0", blocking(1), Hooks::new(echo));
        Client::to(("127.0.0.1", server.port())).echo("IPv4");
        assert!(refused(("::1", server.port())));
    });
}

/// I6: With IPv6 there is still one pool: `max_thread` is the total.
#[test]
fn one_pool_for_both_families() {
    isolated(|| {
        let gate = Gate::new();
        let server = started("0", blocking(2).use_ipv6(true), answer_behind(&gate));
        let mut clients: Vec<_> = ["127.0.0.1", "::1", "127.0.0.1", "::1"]
            .map(|host| Client::to((host, server.port())))
            .into();
        gate.reached_by(2);
        eventually("two wait", || server.stats().waiting == 2);
        assert_eq!((gate.waiting(), server.stats().threads), (2, 2));
        gate.open();
        for client in &mut clients {
            client.expect_last("answer");
        }
    });
}

/// I3: An explicit IPv6 address needs no `use_ipv6`, and is that address alone.
#[test]
fn an_explicit_address() {
    isolated(|| {
        for config in both_modes() {
            let server = started("[::1]:0", config, Hooks::new(echo));
            assert_eq!(server.address(), format!("[::1]:{}", server.port()));
            Client::to(("::1", server.port())).echo("IPv6");
            assert!(refused(("127.0.0.1", server.port())));
        }
    });
}

/// I4: An explicit address that cannot be bound is an error.
#[test]
fn an_address_that_is_not_ours() {
    isolated(|| {
        // Reserved for documentation: nobody's.
        for service in ["203.0.113.77:0", "[2001:db8::77]:0"] {
            let server = server_at(service, blocking(1).use_ipv6(true), Hooks::new(echo));
            let error = server.start_background().expect_err("bound");
            assert_eq!(error.status(), Status::Listen);
            assert_eq!(error.os_code(), libc::EADDRNOTAVAIL);
            assert!(error.message().contains(service), "{}", error.message());
        }
    });
}

/// I5, I6: Where dual-stack is not available two sockets listen on the same port, with one pool.
#[test]
fn two_sockets_without_dual_stack() {
    isolated(|| {
        faults::refuse_dual_stack();
        for config in both_modes() {
            let server = started("0", config.use_ipv6(true), tell_addresses());
            let listeners = listening_sockets().len();
            assert_eq!(listeners, 2);
            for _ in 0..5 {
                for host in ["127.0.0.1", "::1"] {
                    expect_addresses(Client::to((host, server.port())));
                }
            }
            server.stop().unwrap();
            assert_settled(&server);
        }
        let server = started("0", blocking(1).use_ipv6(true), tell_addresses());
        assert_eq!(server.stats().threads, 1);
        for _ in 0..5 {
            for host in ["127.0.0.1", "::1"] {
                expect_addresses(Client::to((host, server.port())));
            }
        }
    });
}

/// A18.2: A free port is one that is free in both families: where the first choice is taken in the
/// other one, another is chosen.
#[test]
fn a_port_that_is_taken_in_one_family() {
    isolated(|| {
        faults::give_localhost_two_addresses();
        for config in both_modes() {
            for service in ["localhost:0", "0"] {
                if service == "0" {
                    faults::refuse_dual_stack();
                }
                faults::fail_bind(libc::AF_INET, &[libc::EADDRINUSE; 3]);
                let server = started(service, config.clone().use_ipv6(true), tell_addresses());
                assert_eq!((faults::bind_failures_left(), listening_sockets().len()), (0, 2));
                for host in ["127.0.0.1", "::1"] {
                    expect_addresses(Client::to((host, server.port())));
                }
            }
        }
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let service = format!("localhost:{}", taken.local_addr().unwrap().port());
        let server = server_at(&service, blocking(1).use_ipv6(true), Hooks::new(echo));
        let error = server.start_background().expect_err("bound");
        assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EADDRINUSE));
    });
}

/// I7, I4: A name that has an IPv6 address serves IPv4 on a host that has none; an explicit IPv6
/// address is an error there.
#[test]
fn a_name_with_an_address_that_the_host_lacks() {
    isolated(|| {
        faults::give_localhost_two_addresses();
        for config in both_modes() {
            for error in [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT] {
                faults::fail_bind(libc::AF_INET6, &[error]);
                let config = config.clone().use_ipv6(true);
                let server = started("localhost:0", config.clone(), tell_addresses());
                assert_eq!(server.address(), format!("127.0.0.1:{}", server.port()));
                expect_addresses(Client::to(("127.0.0.1", server.port())));
                faults::fail_bind(libc::AF_INET6, &[error]);
                let explicit = server_at("[::1]:0", config, Hooks::new(echo));
                let failed = explicit.start_background().expect_err("bound");
                assert_eq!((failed.status(), failed.os_code()), (Status::Listen, error));
            }
        }
    });
}

/// A18.3: A host without IPv6 serves IPv4: here the kernel refuses to make IPv6 sockets.
#[test]
fn a_host_without_ipv6() {
    isolated(|| {
        faults::refuse_call(libc::SYS_socket, 0, libc::AF_INET6, libc::EAFNOSUPPORT);
        for config in both_modes() {
            let server = started("0", config.use_ipv6(true), tell_addresses());
            expect_addresses(Client::to(("127.0.0.1", server.port())));
        }
    });
}

/// I9: A literal IPv4-mapped address means that IPv4 address, for the shutdown port too.
#[test]
fn an_ipv4_mapped_address() {
    isolated(|| {
        for config in both_modes() {
            for config in [config.clone(), config.use_ipv6(true)] {
                let config = config.shutdown_port("[::ffff:127.0.0.1]:0");
                let server = started("[::ffff:127.0.0.1]:0", config, tell_addresses());
                assert_eq!(server.address(), format!("127.0.0.1:{}", server.port()));
                expect_addresses(Client::to(("127.0.0.1", server.port())));
                assert!(refused(("::1", server.port())));
                drop(Client::to(("127.0.0.1", server.shutdown_port())));
                server.wait(Some(SOON)).unwrap();
            }
        }
    });
}

/// I8: The shutdown port serves IPv6, too, where it is asked for.
#[test]
fn the_shutdown_port_in_both_families() {
    isolated(|| {
        for config in both_modes() {
            for (service, host) in [("0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "::1")] {
                let config = config.clone().use_ipv6(true).shutdown_port(service);
                let server = started("0", config, Hooks::new(echo));
                drop(Client::to((host, server.shutdown_port())));
                server.wait(Some(SOON)).unwrap();
            }
        }
    });
}
