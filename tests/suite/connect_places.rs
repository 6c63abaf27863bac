//! Where a server connects to, and connects that fail immediately.

use super::connects::*;
use super::unix::Folder;
use crate::api::{plain_stream, CloseReason, Hooks, Status};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;

/// AD11: Unix sockets, by a path and by a name, and IPv6.
#[test]
fn places_to_connect_to() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("there");
        let caller = Caller::new();
        let listener = UnixListener::bind(&path).unwrap();
        let service = format!("unix:{}", path.display());
        let id = caller.server.connect(&service, None, caller.data()).unwrap();
        assert_eq!(caller.seen.next(), Seen::Open(id));
        let name = format!("ns-connects-{}", std::process::id());
        let address = SockAddr::unix(format!("\0{name}")).unwrap();
        let abstracted = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        abstracted.bind(&address).unwrap();
        abstracted.listen(4).unwrap();
        let service = format!("unix:@{name}");
        let id = caller.server.connect(&service, Some(SOON), caller.data()).unwrap();
        assert_eq!(caller.seen.next(), Seen::Open(id));
        let six = TcpListener::bind("[::1]:0").unwrap();
        let id = caller.connect(six.local_addr().unwrap(), 0);
        assert_eq!(caller.seen.next(), Seen::Open(id));
        drop((listener, abstracted, six));
        std::fs::remove_file(path).unwrap();
        wait_idle(&caller.server);
    });
}

/// AD11: The addresses of a name are tried in turn, each for its share of the time.
#[test]
fn several_addresses() {
    isolated(|| {
        faults::give_localhost_two_addresses();
        let caller = Caller::new();
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = four.local_addr().unwrap().port();
        // The first one refuses.
        let service = format!("localhost:{port}");
        let id = caller.server.connect(&service, None, caller.data()).unwrap();
        assert_eq!(caller.seen.next(), Seen::Open(id));
        let mut peer = Client::set_up(plain_stream(four.accept().unwrap().0)).unwrap();
        peer.expect("open");
        peer.finish_sending();
        peer.expect_end();
        // The first one does not answer.
        let six = Full::at(SocketAddr::new("::1".parse().unwrap(), port));
        let clock = Stopwatch::start();
        let id = caller.server.connect(&service, Some(ms(800)), caller.data()).unwrap();
        while caller.seen.next() != Seen::Open(id) {}
        clock.kept(ms(400));
        let mut peer = Client::set_up(plain_stream(four.accept().unwrap().0)).unwrap();
        peer.expect("open");
        drop(peer);
        // None of them does.
        drop((four, six));
        caller.server.connect(&service, Some(ms(800)), caller.data()).unwrap();
        let failed = Seen::Failed(Status::Connect, libc::ECONNREFUSED);
        while caller.seen.next() != failed {}
        wait_idle(&caller.server);
        assert_eq!(caller.closed(CloseReason::Connect), 1);
    });
}

/// AD11: The next address needs no second descriptor.
#[test]
fn an_address_after_the_last_descriptor() {
    isolated(|| {
        faults::give_localhost_two_addresses();
        let caller = Caller::new();
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = four.local_addr().unwrap().port();
        let _six = Full::at(SocketAddr::new("::1".parse().unwrap(), port));
        let service = format!("localhost:{port}");
        let id = caller.server.connect(&service, Some(ms(1000)), caller.data()).unwrap();
        let fillers = fill_descriptors(0);
        assert_eq!(caller.seen.next(), Seen::Open(id));
        drop(fillers);
        drop(four);
        wait_idle(&caller.server);
    });
}

/// AD12: What fails immediately is the error of the call, which drops its user data.
#[test]
fn connects_that_fail_immediately() {
    isolated(|| {
        let folder = Folder::new();
        let caller = Caller::new();
        let missing = format!("unix:{}", folder.path("missing").display());
        let cases = [
            (missing.as_str(), Status::Connect, libc::ENOENT),
            ("5000", Status::Invalid, 0),
            ("", Status::Invalid, 0),
            ("fd:3", Status::Invalid, 0),
            ("systemd", Status::Invalid, 0),
            ("127.0.0.1:70000", Status::Invalid, 0),
            ("::1:80", Status::Invalid, 0),
            ("127.0.0.1:no-such-service", Status::Address, 0),
        ];
        for (count, (service, expected, code)) in (1..).zip(cases) {
            let error = caller.server.connect(service, None, caller.data()).unwrap_err();
            assert_eq!((error.status(), error.os_code()), (expected, code), "{error:?}");
            assert_eq!(caller.drops.load(Ordering::SeqCst), count);
        }
        let too_long = Some(net_server::MAX_TIME + ms(1));
        let result = caller.server.connect("127.0.0.1:80", too_long, caller.data());
        assert_eq!(status(result), Status::Invalid);
        assert_eq!((caller.server.stats().adopted, caller.server.stats().open), (0, 0));
        let server = start(blocking(1), Hooks::new(echo));
        assert_eq!(status(server.connect("127.0.0.1:80", None, ())), Status::NotNonBlocking);
        let server = unstarted(non_blocking(1), Hooks::new(echo));
        assert_eq!(status(server.connect("127.0.0.1:80", None, ())), Status::State);
    });
}

/// AD12: No descriptor is left, and the backlog of a unix socket is full.
#[test]
fn connects_without_room() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("full");
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let caller = Caller::new();
        let service = format!("unix:{}", path.display());
        let error = (0..4)
            .find_map(|_| caller.server.connect(&service, None, caller.data()).err())
            .expect("the backlog is full");
        assert_eq!((error.status(), error.os_code()), (Status::Connect, libc::EAGAIN));
        let fillers = fill_descriptors(0);
        let result = caller.server.connect("127.0.0.1:9", None, caller.data());
        drop(fillers);
        let error = result.unwrap_err();
        assert_eq!((error.status(), error.os_code()), (Status::Connect, libc::EMFILE));
        drop(socket);
        std::fs::remove_file(path).unwrap();
        wait_idle(&caller.server);
    });
}
