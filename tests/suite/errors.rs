//! Every failure is a status with a stable number, a name and a sentence.

use crate::api::{ConnId, Error, Hooks, Server, Status};
use crate::support::*;
use std::net::TcpListener;

/// E1: The numbers and names are stable, from −1001 down.
#[test]
fn numbers_and_names_are_stable() {
    let all = [
        (Status::Ok, 0, "NS_OK"),
        (Status::Invalid, -1001, "NS_ERR_INVALID"),
        (Status::State, -1002, "NS_ERR_STATE"),
        (Status::Timeout, -1003, "NS_ERR_TIMEOUT"),
        (Status::Closed, -1004, "NS_ERR_CLOSED"),
        (Status::Reset, -1005, "NS_ERR_RESET"),
        (Status::WouldBlock, -1006, "NS_ERR_WOULD_BLOCK"),
        (Status::BufferFull, -1007, "NS_ERR_BUFFER_FULL"),
        (Status::Rejected, -1008, "NS_ERR_REJECTED"),
        (Status::Detached, -1009, "NS_ERR_DETACHED"),
        (Status::NotNonBlocking, -1010, "NS_ERR_NOT_NON_BLOCKING"),
        (Status::NotInHandler, -1011, "NS_ERR_NOT_IN_HANDLER"),
        (Status::Busy, -1012, "NS_ERR_BUSY"),
        (Status::Deadlock, -1013, "NS_ERR_DEADLOCK"),
        (Status::Panic, -1014, "NS_ERR_PANIC"),
        (Status::Handler, -1015, "NS_ERR_HANDLER"),
        (Status::Address, -1016, "NS_ERR_ADDRESS"),
        (Status::Listen, -1017, "NS_ERR_LISTEN"),
        (Status::Io, -1018, "NS_ERR_IO"),
        (Status::NoMemory, -1019, "NS_ERR_NO_MEMORY"),
        (Status::Thread, -1020, "NS_ERR_THREAD"),
        (Status::Unsupported, -1021, "NS_ERR_UNSUPPORTED"),
        (Status::Accept, -1022, "NS_ERR_ACCEPT"),
        (Status::Hook, -1023, "NS_ERR_HOOK"),
        (Status::Tls, -1024, "NS_ERR_TLS"),
        (Status::Truncated, -1025, "NS_ERR_TRUNCATED"),
        (Status::Handshake, -1026, "NS_ERR_HANDSHAKE"),
        (Status::Certificate, -1027, "NS_ERR_CERTIFICATE"),
        (Status::Connect, -1028, "NS_ERR_CONNECT"),
        (Status::Proxy, -1030, "NS_ERR_PROXY"),
    ];
    for (status, code, name) in all {
        assert_eq!((status.code(), status.name()), (code, name));
        assert_eq!(Status::from_code(code), Some(status));
        assert!(!status.message().is_empty());
        assert_eq!(Error::from(status).message(), status.message());
    }
    for code in [1, -1, -1000, -1029, i32::MIN, i32::MAX] {
        assert_eq!(Status::from_code(code), None);
    }
}

/// E2: The sentence says what failed, on what, and why, and the error keeps the OS code.
#[test]
fn the_sentence_of_a_taken_port() {
    isolated(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = taken.local_addr().unwrap().to_string();
        let server = Server::new(&service, Hooks::new(echo)).unwrap();
        let error = server.start().expect_err("bound twice");
        assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EADDRINUSE));
        let text = error.message().to_lowercase();
        assert!(text.contains(&service) && text.contains("in use"), "{text}");
        assert_eq!(error.to_string(), error.message());
    });
}

/// E2: The sentence of a port without permission has the port that the name stands for.
#[test]
fn the_sentence_of_a_forbidden_port() {
    isolated(|| {
        let first: u16 = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .map_or(1024, |text| text.trim().parse().unwrap());
        if first <= 80 {
            return;
        }
        // SAFETY: changes the identity of this process, which is this test's alone.
        unsafe { libc::seteuid(65_534) };
        let server = Server::new("http", Hooks::new(echo)).unwrap();
        let error = server.start().expect_err("bound");
        assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EACCES));
        let text = error.message().to_lowercase();
        for part in ["\"http\"", "permission denied", "80"] {
            assert!(text.contains(part), "{text}");
        }
    });
}

/// E2: The sentence of a service that cannot be resolved has its name.
#[test]
fn the_sentence_of_an_unknown_service() {
    isolated(|| {
        for service in ["no-such-service-at-all", "no-such-host.invalid:80"] {
            let server = Server::new(service, Hooks::new(echo)).unwrap();
            let error = server.start().expect_err("resolved");
            assert_eq!(error.status(), Status::Address);
            assert!(error.message().contains(service), "{}", error.message());
        }
    });
}

/// O2: The sentence of an absurd setting has its name.
#[test]
fn the_sentence_of_a_bad_setting() {
    isolated(|| {
        let config = blocking(0);
        let error = Server::with_config("0", Hooks::new(echo), config).err().expect("accepted");
        assert_eq!(error.status(), Status::Invalid);
        assert!(error.message().contains("max_thread"), "{}", error.message());
        let error = Server::new("65536", Hooks::new(echo)).err().expect("accepted");
        assert!(error.message().contains("65536"), "{}", error.message());
    });
}

/// A18.1: A port is digits alone, at most 65535, and a service name has a letter; nothing else is
/// taken for another port.
#[test]
fn what_is_no_port_is_refused() {
    isolated(|| {
        let ports = ["+65536", "70000", "-4294962291", "+0", "-1", "+5000", "99999999999999999999"];
        for port in ports {
            for service in [port.to_string(), format!("127.0.0.1:{port}"), format!("[::1]:{port}")]
            {
                let error = Server::new(&service, Hooks::new(echo)).err().expect("accepted");
                assert_eq!(error.status(), Status::Invalid);
                assert!(error.message().contains(&service), "{}", error.message());
                let config = blocking(1).shutdown_port(service.clone());
                let error = Server::with_config("0", Hooks::new(echo), config).err();
                assert_eq!(error.expect("accepted").status(), Status::Invalid);
            }
        }
    });
}

/// E3: Wrong states are errors.
#[test]
fn wrong_states() {
    isolated(|| {
        let server = unstarted(non_blocking(1), Hooks::new(echo));
        let id = ConnId::from_u64(77).unwrap();
        for result in [server.send(id, b"x"), server.close(id), server.abort(id), server.wake(id)] {
            assert!(matches!(status(result), Status::State | Status::Closed));
        }
        assert_eq!(server.port(), 0);
        assert!(server.thread_stats(usize::MAX).is_none());
        assert!(server.thread_stats(10_000).is_none());
    });
}

/// B7: An id is never 0.
#[test]
fn an_id_is_never_zero() {
    assert!(ConnId::from_u64(0).is_none());
    assert_eq!(ConnId::from_u64(5).map(ConnId::get), Some(5));
}

/// E4: `return -1` from a handler is never taken for a status.
#[test]
fn a_handlers_own_numbers_are_no_statuses() {
    isolated(|| {
        let (log, errors) = events();
        let hooks = Hooks::new(|_, socket| {
            let code: i32 = text(socket)?.parse().unwrap();
            Err(Error::raise(code, "own number"))
        })
        .on_exception(move |_, _, error| {
            log.add((error.status(), error.handler_code()));
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut client = Client::connect(&server);
        for code in [-1, -2, -1000, -5000] {
            client.send(code.to_string());
            assert_eq!(errors.next(), (Status::Handler, code));
        }
    });
}
