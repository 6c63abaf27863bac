//! Unix sockets.

use crate::api::{CloseReason, Config, Hooks, Server, State, Status};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A folder of the test's own, which goes with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("ns-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn service(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is empty: a server leaves no file behind.
        let removed = fs::remove_dir(&self.0);
        if !std::thread::panicking() {
            removed.expect("the folder is empty");
        }
    }
}

/// A client of a unix socket, which has no TLS in any run.
struct Local(UnixStream);

impl Local {
    fn to(path: impl AsRef<Path>) -> Local {
        Local::of(UnixStream::connect(path).expect("connect"))
    }

    fn of(stream: UnixStream) -> Local {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Local(stream)
    }

    fn to_abstract(name: &str) -> Local {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.connect(&SockAddr::unix(format!("\0{name}")).unwrap()).expect("connect");
        Local::of(socket.into())
    }

    fn saying(mut self, words: &str) -> Local {
        self.0.write_all(words.as_bytes()).unwrap();
        self
    }

    #[track_caller]
    fn expect(&mut self, words: &str) {
        let mut heard = vec![0; words.len()];
        self.0.read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), words);
    }

    #[track_caller]
    fn expect_last(&mut self, words: &str) {
        let mut heard = String::new();
        self.0.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, words);
    }

    #[track_caller]
    fn echo(&mut self, words: &str) {
        self.0.write_all(words.as_bytes()).unwrap();
        self.expect(words);
    }
}

/// A server without TLS, in every run.
fn plain(service: &str, config: Config, hooks: Hooks) -> Server {
    Server::with_config(service, hooks, config).expect("new")
}

fn started(service: &str, config: Config, hooks: Hooks) -> Server {
    let server = plain(service, config, hooks);
    server.start_background().expect("start");
    server
}

/// Tells what the server knows of both sides.
fn tell_names() -> Hooks {
    Hooks::new(|_, socket| {
        text(socket)?;
        assert_eq!((socket.peer(), socket.local()), (None, None));
        socket.send(format!("{} to {}", socket.peer_name(), socket.local_name()).as_bytes())?;
        socket.close();
        Ok(())
    })
}

/// Y1, Y2, Y9: A path and an abstract name are served; both sides are shown by their names.
#[test]
fn paths_and_abstract_names() {
    isolated(|| {
        let folder = Folder::new();
        let name = format!("ns-test-{}", std::process::id());
        for config in both_modes() {
            let service = folder.service("socket");
            let server = started(&service, config, tell_names());
            assert_eq!(
                server.add_service("unix:@late").map_err(|e| e.status()),
                Err(Status::State)
            );
            assert_eq!((server.address(), server.port()), (service.clone(), 0));
            let mut client = Local::to(folder.path("socket")).saying("hello");
            client.expect_last(&format!("unix: to {service}"));

            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.bind(&SockAddr::unix(folder.path("client")).unwrap()).unwrap();
            socket.connect(&SockAddr::unix(folder.path("socket")).unwrap()).unwrap();
            let mut named = Local::of(socket.into()).saying("hello");
            named.expect_last(&format!("{} to {service}", folder.service("client")));
            fs::remove_file(folder.path("client")).unwrap();
            server.stop().unwrap();
            assert_settled(&server);
            assert!(!folder.path("socket").exists(), "the file is left");
        }
        for config in both_modes() {
            let server = started(&format!("unix:@{name}"), config, tell_names());
            let mut client = Local::to_abstract(&name).saying("hello");
            client.expect_last(&format!("unix: to unix:@{name}"));
            assert_eq!(server.address(), format!("unix:@{name}"));
        }
    });
}

/// V1, Y1: A unix socket stands beside a port.
#[test]
fn beside_a_port() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let server = unstarted(config, Hooks::new(echo));
            server.add_service(&folder.service("socket")).unwrap();
            server.start_background().unwrap();
            Client::connect(&server).echo("by TCP");
            Local::to(folder.path("socket")).echo("by unix");
            assert_eq!(server.service_address(1), folder.service("socket"));
        }
    });
}

/// Y3: The file has the mode of the configuration, whatever the umask is, and that stays.
#[test]
fn the_mode_of_the_file() {
    isolated(|| {
        let folder = Folder::new();
        // SAFETY: it only sets a number.
        unsafe { libc::umask(0o027) };
        for config in both_modes() {
            for (config, mode) in [(config.clone(), 0o600), (config.unix_mode(0o666), 0o666)] {
                let server = started(&folder.service("socket"), config, Hooks::new(echo));
                let found = fs::symlink_metadata(folder.path("socket")).unwrap();
                assert!(found.file_type().is_socket());
                assert_eq!(found.permissions().mode() & 0o7777, mode);
                server.stop().unwrap();
            }
        }
        // SAFETY: as above.
        assert_eq!(unsafe { libc::umask(0) }, 0o027);
    });
}

/// Y4: The file of a server that is gone is replaced, as often as it takes.
#[test]
fn a_stale_file_is_replaced() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let path = folder.path("socket");
            drop(UnixListener::bind(&path).unwrap());
            let stale = fs::symlink_metadata(&path).unwrap();
            let _server = started(&folder.service("socket"), config, Hooks::new(echo));
            assert_ne!(fs::symlink_metadata(&path).unwrap().ctime_nsec(), stale.ctime_nsec());
            Local::to(&path).echo("hello");
        }
    });
}

/// Y4, L6: A socket on which somebody listens, and whatever else is there, is left alone: the start
/// fails and says why.
#[test]
fn what_is_no_stale_socket_is_left_alone() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("place");
        let refuses = |config: &Config, why: &str, code: i32| {
            let before = fs::symlink_metadata(&path).map(|found| found.ino()).ok();
            let service = folder.service("place");
            let server = plain("127.0.0.1:0", config.clone(), Hooks::new(echo));
            let open = descriptors();
            server.add_service(&service).unwrap();
            let error = server.start_background().expect_err("it listens");
            assert_eq!((error.status(), error.os_code()), (Status::Listen, code));
            let message = error.message();
            assert!(message.contains(&service) && message.contains(why), "{message}");
            let after = fs::symlink_metadata(&path).map(|found| found.ino()).ok();
            assert_eq!((after, server.state()), (before, State::New));
            // A server that lives accepts the attempt to connect.
            eventually("nothing is left open", || descriptors() == open);
        };
        for config in both_modes() {
            let live = started(&folder.service("place"), config.clone(), Hooks::new(echo));
            refuses(&config, "another socket listens there", libc::EADDRINUSE);
            Local::to(&path).echo("unharmed");
            live.stop().unwrap();

            fs::write(&path, "precious").unwrap();
            refuses(&config, "no socket", libc::EADDRINUSE);
            assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
            fs::remove_file(&path).unwrap();

            fs::create_dir(&path).unwrap();
            refuses(&config, "no socket", libc::EADDRINUSE);
            fs::remove_dir(&path).unwrap();

            std::os::unix::fs::symlink(folder.path("nothing"), &path).unwrap();
            refuses(&config, "no socket", libc::EADDRINUSE);
            fs::remove_file(&path).unwrap();

            let datagrams = UnixDatagram::bind(&path).unwrap();
            refuses(&config, "another socket listens there", libc::EADDRINUSE);
            drop(datagrams);
            fs::remove_file(&path).unwrap();
        }
        let server = plain(&folder.service("missing/socket"), blocking(1), Hooks::new(echo));
        let error = server.start_background().expect_err("it listens");
        assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::ENOENT));
        let taken = format!("unix:@ns-taken-{}", std::process::id());
        let _first = started(&taken, blocking(1), Hooks::new(echo));
        let second = plain(&taken, non_blocking(1), Hooks::new(echo));
        let error = second.start_background().expect_err("it listens");
        assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::EADDRINUSE));
    });
}

/// Y5: A server removes the file that it has made and no other one.
#[test]
fn only_its_own_file_is_removed() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("socket");
        for config in both_modes() {
            let first = started(&folder.service("socket"), config.clone(), Hooks::new(echo));
            fs::remove_file(&path).unwrap();
            let second = started(&folder.service("socket"), config, Hooks::new(echo));
            first.stop().unwrap();
            Local::to(&path).echo("the second is there");
            second.stop().unwrap();
            assert!(!path.exists());
        }
    });
}

/// Y5, L7: A start that fails after the file was made removes it, and a stop removes it while
/// handlers still run.
#[test]
fn the_file_goes_with_the_listener() {
    isolated(|| {
        let folder = Folder::new();
        let path = folder.path("socket");
        for config in both_modes() {
            let hooks = Hooks::new(echo).on_start(|_| Err(status_error()));
            let server = plain(&folder.service("socket"), config.clone(), hooks);
            assert_eq!(status(server.start_background()), Status::Hook);
            assert!(!path.exists());

            let gate = Gate::new();
            let server = started(&folder.service("socket"), config, answer_behind(&gate));
            let _open = OpenOnDrop(gate.clone());
            let mut client = Local::to(&path).saying("hello");
            gate.reached_by(1);
            while_stopping(&server, || {
                gate.open();
                client.expect_last("answer");
            });
            assert!(!path.exists());
        }
    });
}

fn status_error() -> crate::api::Error {
    crate::api::Error::from(Status::Handler)
}

/// Y6, L1: What cannot be the path or the name of a socket is an error of the call.
#[test]
fn bad_names() {
    isolated(|| {
        let long = |start: &str, count: usize| format!("unix:{start}{}", "x".repeat(count));
        for bad in ["unix:", "unix:relative", "unix:@", "unix:./x"] {
            let made = Server::with_config(bad, Hooks::new(echo), blocking(1));
            assert_eq!(made.err().map(|e| e.status()), Some(Status::Invalid), "{bad}");
        }
        for (bad, good) in [(long("/", 107), long("/", 106)), (long("@", 108), long("@", 107))] {
            let made = Server::with_config(&bad, Hooks::new(echo), blocking(1));
            let error = made.err().expect("made");
            assert_eq!(error.status(), Status::Invalid);
            assert!(error.message().contains("107 bytes"), "{}", error.message());
            plain(&good, blocking(1), Hooks::new(echo));
        }
        let longest = long("@", 107 - 10) + &format!("{:010}", std::process::id());
        let server = started(&longest, blocking(1), Hooks::new(echo));
        assert_eq!(server.address(), longest);
        Local::to_abstract(&longest["unix:@".len()..]).echo("hello");
    });
}

/// P4, Y6: The shutdown port stays a port.
#[test]
fn no_unix_socket_for_the_shutdown_port() {
    isolated(|| {
        let config = blocking(1).shutdown_port("unix:/tmp/x");
        let made = Server::with_config("0", Hooks::new(echo), config);
        let error = made.err().expect("made");
        assert_eq!(error.status(), Status::Invalid);
        assert!(error.message().contains("port"), "{}", error.message());
    });
}

/// Y7: The kernel knows who the peer of a unix socket is; of TCP it does not.
#[test]
fn peer_credentials() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let (log, told) = events();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                let found = socket.peer_credentials();
                log.add(found.map(|c| (c.pid, c.uid, c.gid)).map_err(|error| error.status()));
                Ok(socket.close())
            });
            let server = unstarted(config, hooks);
            server.add_service(&folder.service("socket")).unwrap();
            server.start_background().unwrap();
            let _local = Local::to(folder.path("socket")).saying("who am I?");
            // SAFETY: they only return numbers.
            let own = unsafe { (libc::getpid(), libc::geteuid(), libc::getegid()) };
            assert_eq!(told.next(), Ok(own));
            let _client = Client::connect(&server).saying("who am I?");
            assert_eq!(told.next(), Err(Status::Unsupported));
        }
    });
}

/// Y1, A2.1, Q1: Much more than the kernel takes arrives whole, to a client that reads late, in both
/// directions, and `on_drain` comes.
#[test]
fn back_pressure() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let server = started(&folder.service("socket"), config, Hooks::new(bulk_and_close));
            let mut client = Local::to(folder.path("socket")).saying("x");
            let_pass(ms(50));
            let mut all = Vec::new();
            client.0.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), BULK);
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();

            let _server = started(&folder.service("socket"), non_blocking(1), Hooks::new(echo));
            let client = Local::to(folder.path("socket"));
            let data = pattern(BULK);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    (&client.0).write_all(&data).unwrap();
                    client.0.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let mut back = Vec::new();
                (&client.0).read_to_end(&mut back).unwrap();
                assert!(back == data);
            });
        }
    });
}

/// Y8, A9.1, C5: Abort and close by id, and the cut of a stop, reach a connection wherever it is.
#[test]
fn ends_by_others() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            for sends in [false, true] {
                for end in ["abort", "close", "stop"] {
                    if end == "close" && sends && config.non_blocking {
                        // The queue leaves first, when the client reads.
                        continue;
                    }
                    let (log, reached) = events();
                    let hooks = Hooks::new(move |server, socket| {
                        log.add(socket.id());
                        if sends {
                            return bulk(server, socket);
                        }
                        echo(server, socket)
                    });
                    let (hooks, reasons) = hooks.telling_reasons();
                    let config = config.clone().linger_timeout(ms(100));
                    let server = started(&folder.service("socket"), config, hooks);
                    let mut client = Local::to(folder.path("socket")).saying("x");
                    let id = reached.next();
                    if sends {
                        eventually("bytes are under way", || {
                            bytes_waiting(client.0.as_raw_fd()) > 100_000
                        });
                    } else {
                        client.expect("x");
                    }
                    let clock = Stopwatch::start();
                    match end {
                        "abort" => server.abort(id).unwrap(),
                        "close" => server.close(id).unwrap(),
                        _ => {
                            let _ = server.stop_within(ms(50));
                        }
                    }
                    let reason = reasons.next();
                    clock.at_once();
                    if end == "abort" {
                        assert_eq!(reason, CloseReason::Abort);
                    }
                    let mut rest = Vec::new();
                    let _ = client.0.read_to_end(&mut rest);
                    assert!(rest.len() < BULK, "{end}");
                    drop(client);
                    server.stop().unwrap();
                    assert_settled(&server);
                }
            }
        }
    });
}

/// Y8, A1.1, A5.1: A peer that ends with a reset is an error to the handler; unread input destroys no
/// reply.
#[test]
fn resets_and_late_input() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| {
                let mut first = [0; 1];
                socket.recv(&mut first)?;
                socket.send(b"reply")?;
                socket.close();
                Ok(())
            });
            let (hooks, reasons) = hooks.telling_reasons();
            let server = started(&folder.service("socket"), config.clone(), hooks);
            let mut client = Local::to(folder.path("socket")).saying("much more than one byte");
            client.expect("reply");
            drop(client);
            assert_eq!(reasons.next(), CloseReason::Handler);
            wait_idle(&server);
            server.stop().unwrap();

            // A close with unread input is the reset of a unix socket.
            let (hooks, reasons) = Hooks::new(echo).telling_reasons();
            let server = started(&folder.service("socket"), config, hooks);
            let client = Local::to(folder.path("socket")).saying("hello");
            eventually("the echo is there", || bytes_waiting(client.0.as_raw_fd()) == 5);
            drop(client);
            assert_eq!(reasons.next(), CloseReason::Reset);
            wait_idle(&server);
        }
    });
}

/// Y10, S6, A2.5: What was sent is with the peer: a stop does not wait for a peer that has not read.
#[test]
fn a_stop_waits_for_no_reader() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let (hooks, reasons) = Hooks::new(|_, socket| {
                text(socket)?;
                socket.send(b"unread")
            })
            .telling_reasons();
            let config = config.drain_timeout(ms(6000)).linger_timeout(ms(6000));
            let server = started(&folder.service("socket"), config, hooks);
            let mut client = Local::to(folder.path("socket")).saying("x");
            eventually("it is there", || bytes_waiting(client.0.as_raw_fd()) == 6);
            let clock = Stopwatch::start();
            server.stop().unwrap();
            clock.at_once();
            assert!(matches!(reasons.next(), CloseReason::Stop | CloseReason::Handler));
            client.expect_last("unread");
        }
    });
}

/// Y1, D1, D14: A connection is detached and attached as any other.
#[test]
fn detach_and_attach() {
    isolated(|| {
        let folder = Folder::new();
        let (log, owned) = events();
        let hooks = Hooks::new(move |server: &Server, socket| match text(socket)?.as_str() {
            "detach" => Ok(log.add(server.detach(socket)?)),
            other => socket.send(other.as_bytes()),
        });
        let server = started(&folder.service("socket"), non_blocking(2), hooks);
        let mut client = Local::to(folder.path("socket")).saying("detach");
        let mut socket = owned.next();
        socket.socket().send(b"owned").unwrap();
        client.expect("owned");
        assert_eq!(socket.socket().peer_name(), "unix:");
        assert!(socket.socket().peer_credentials().is_ok());
        server.attach(socket).unwrap();
        client.echo("attached");
    });
}

/// Y1, M4: Accepting recovers from a lack of descriptors.
#[test]
fn out_of_descriptors() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let (log, errors) = events();
            let hooks =
                Hooks::new(echo).on_exception(move |_, _, error| Ok(log.add(error.os_code())));
            let _server = started(&folder.service("socket"), config, hooks);
            let sockets: Vec<_> =
                (0..12).map(|_| Socket::new(Domain::UNIX, Type::STREAM, None).unwrap()).collect();
            let limit = descriptor_limit().0;
            let fillers = fill_descriptors(0);
            for socket in &sockets {
                socket.connect(&SockAddr::unix(folder.path("socket")).unwrap()).unwrap();
            }
            assert_eq!(errors.next(), libc::EMFILE);
            drop(fillers);
            set_descriptor_limit(limit);
            for socket in sockets {
                Local::of(socket.into()).echo("hello");
            }
        }
    });
}

/// Sends bytes with a descriptor along (cmsg(3)).
fn send_with_descriptor(stream: &UnixStream, bytes: &[u8], fd: &impl AsRawFd) {
    let mut control = [0_u64; 8];
    // SAFETY: the message points to buffers that live until it is sent; the control buffer is
    // aligned, and long enough for one descriptor.
    unsafe {
        let mut part =
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
        assert_eq!(libc::sendmsg(stream.as_raw_fd(), &message, 0), bytes.len() as isize);
    }
}

/// Y11: A read ends at descriptors that came along. What comes behind them is delivered, also
/// after an attach, and the descriptors are closed.
#[test]
fn descriptors_that_come_along() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let gate = Gate::new();
            let inside = gate.clone();
            let non_blocking = config.non_blocking;
            let hooks = Hooks::new(move |server: &Server, socket| {
                let words = text(socket)?;
                if words.is_empty() {
                    return Ok(socket.close());
                }
                inside.wait();
                if words == "attach" {
                    let owned = server.detach(socket)?;
                    server.attach(owned).map(drop).map_err(|failed| failed.error)?;
                    return Ok(());
                }
                socket.send(words.as_bytes())?;
                echo(server, socket)
            });
            let server = started(&folder.service("socket"), config, hooks);
            let (ours, theirs) = UnixStream::pair().unwrap();
            for first in ["first", "attach"] {
                let mut client = Local::to(folder.path("socket")).saying(first);
                gate.reached_by(1);
                // The handler waits, so that all of this is there when it goes on.
                send_with_descriptor(&client.0, b"abc", &theirs);
                client.0.write_all(b"def").unwrap();
                gate.open();
                client.expect(if first == "attach" { "abcdef" } else { "firstabcdef" });
                gate.close();
                if !non_blocking {
                    break;
                }
            }
            drop(theirs);
            assert_eq!((&ours).read(&mut [0]).unwrap(), 0, "a copy is left open");
            wait_idle(&server);
        }
    });
}
