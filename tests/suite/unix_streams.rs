//! Connections of unix sockets: what their streams have, and what they have not.

use super::unix::{started, Folder, Local};
use crate::api::{CloseReason, Hooks, Server};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Y1, A2.1, Q1: Much more than the kernel takes arrives whole, to a client that reads late, in both
/// directions, and `on_drain` comes.
#[test]
fn back_pressure() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let server = started(&folder.service("socket"), config, Hooks::new(bulk_and_close));
            let mut client = Local::to(folder.path("socket")).saying("x");
            // The client reads late, whatever the server has done.
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
