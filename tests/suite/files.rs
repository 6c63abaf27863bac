//! Bytes of files.

use super::detach::{detached, detaching};
use super::hosted::{host, hosted_with};
use super::unix::{started, Folder, Local};
use crate::api::{Config, Error, Hooks, Server, Socket, Status};
use crate::support::faults::refuse_call;
use crate::support::*;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// The most that a call on a loop accepts.
const TURN: u64 = (1 << 20) + (64 << 10);

/// Sends the file on from where the connection is, and closes behind its end.
fn go_on(file: &File, socket: &mut Socket<'_>, log: &Log<u64>) -> Result<(), Error> {
    let len = file.metadata().unwrap().len() - BEFORE;
    let sent = socket.user_data::<u64>().copied().unwrap_or(0);
    let n = socket.sendfile(file, BEFORE + sent, len - sent)?;
    log.add(n);
    socket.set_user_data(sent + n);
    if sent + n == len {
        socket.send(b" tail")?;
        socket.close();
    }
    Ok(())
}

/// A handler that sends "head ", the file and " tail" and closes, and the numbers of bytes that the
/// calls have accepted.
fn sending(file: File) -> (Hooks, Events<u64>) {
    let (log, accepted) = events();
    let (file, more) = (Arc::new(file), log.clone());
    let same = file.clone();
    let hooks = Hooks::new(move |_, socket| {
        text(socket)?;
        socket.send(b"he")?;
        socket.send(b"ad ")?;
        go_on(&file, socket, &log)
    });
    (hooks.on_drain(move |_, socket| go_on(&same, socket, &more)), accepted)
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [b"head ", bytes, b" tail"].concat()
}

fn patient(config: Config) -> Config {
    config.linger_timeout(ms(10_000))
}

/// Q9, Q10: The bytes of a file leave in their order, behind what was sent before, whatever the
/// kernel takes at a time. On a loop a call accepts a part, and `on_drain` goes on.
#[test]
fn a_file_arrives_whole() {
    isolated(|| {
        for config in both_modes() {
            for low_water in [0, 64 << 10] {
                let is_loop = config.non_blocking;
                let (hooks, accepted) = sending(file_of(&pattern(BULK)));
                let server = start(patient(config.clone()).low_water_mark(low_water), hooks);
                let mut client = Client::small(&server).saying("x");
                assert!(client.rest() == framed(&pattern(BULK)));
                drop(client);
                wait_idle(&server);
                let calls = accepted.drain();
                assert_eq!(calls.iter().sum::<u64>(), BULK as u64);
                assert_eq!(calls.len() == 1, !is_loop, "{calls:?}");
                assert_bytes(server.stats().bytes_out, BULK as u64 + 10, 1);
            }
        }
    });
}

/// Q10: A reader that is fast gets a MiB and little more in a call, so that others have their turn.
#[test]
fn a_call_has_a_bound() {
    isolated(|| {
        let (hooks, accepted) = sending(file_of(&pattern(4 * BULK)));
        let server = start(patient(non_blocking(1)), hooks);
        let mut client = Client::connect(&server).saying("x");
        assert!(client.rest() == framed(&pattern(4 * BULK)));
        let calls = accepted.drain();
        assert!(calls.iter().all(|n| *n <= TURN), "{calls:?}");
    });
}

/// Q10: A callback that calls again until nothing is accepted gets no more than one call does, and
/// `on_drain` goes on.
#[test]
fn a_callback_has_a_bound() {
    isolated(|| {
        let (log, accepted) = events();
        let go_on = move |file: &File, socket: &mut Socket<'_>| {
            let (mut at, mut all) = (socket.user_data::<u64>().copied().unwrap_or(0), 0);
            loop {
                let n = socket.sendfile(file, BEFORE + at, 4 * BULK as u64 - at)?;
                (at, all) = (at + n, all + n);
                if n == 0 || at == 4 * BULK as u64 {
                    break;
                }
            }
            socket.set_user_data(at);
            if at == 4 * BULK as u64 {
                socket.close();
            }
            Ok::<_, Error>(log.add(all))
        };
        let (file, go_on) = (Arc::new(file_of(&pattern(4 * BULK))), Arc::new(go_on));
        let (same, more) = (file.clone(), go_on.clone());
        let hooks = Hooks::new(move |_, socket| {
            text(socket)?;
            go_on(&file, socket)
        });
        let hooks = hooks.on_drain(move |_, socket| more(&same, socket));
        let server = start(patient(non_blocking(1)), hooks);
        assert!(Client::connect(&server).saying("x").rest() == pattern(4 * BULK));
        let calls = accepted.drain();
        assert_eq!(calls.iter().sum::<u64>(), 4 * BULK as u64);
        assert!(calls.iter().all(|n| *n <= TURN), "{calls:?}");
    });
}

/// Q10: While earlier bytes wait a call accepts nothing, and `on_drain` comes, also where a low-water
/// mark has it come before they have left.
#[test]
fn earlier_bytes_leave_first() {
    isolated(|| {
        for low_water in [0, 1 << 20] {
            let (log, accepted) = events();
            let (file, more) = (Arc::new(file_of(b"file")), log.clone());
            let same = file.clone();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                socket.send(&pattern(BULK))?;
                go_on(&file, socket, &log)
            })
            .on_drain(move |_, socket| go_on(&same, socket, &more));
            let server = start(patient(non_blocking(1)).low_water_mark(low_water), hooks);
            let mut client = Client::small(&server).saying("x");
            assert_eq!(accepted.next(), 0);
            accepted.none();
            assert!(client.rest() == [&pattern(BULK)[..], b"file tail"].concat());
            assert_eq!(accepted.drain().last(), Some(&4));
        }
    });
}

/// Q3, QT1, Q10: What a call queues keeps to the bounds of the queues.
#[test]
fn queues_keep_their_bounds() {
    isolated(|| {
        const SMALL: usize = BULK / 16;
        let limits = patient(non_blocking(1)).send_limit(1000).high_water_mark(1000);
        for config in [limits.clone(), limits.send_limit_total(2000)] {
            let (hooks, _accepted) = sending(file_of(&pattern(SMALL)));
            let (hooks, ids) = hooks.telling_ids();
            let server = start(config, hooks);
            let mut client = Client::small(&server).saying("x");
            let (id, expected, mut got) = (ids.next(), framed(&pattern(SMALL)), Vec::new());
            while got.len() < expected.len() {
                got.extend(client.receive(50_000.min(expected.len() - got.len())));
                // TLS adds to each record.
                let held = server.queued(id).unwrap_or(0);
                assert!(held <= 1200, "{held}");
            }
            assert!(got == expected);
            client.expect_end();
        }
    });
}

/// Q9, GS1: A few bytes of a file that come after another send are gathered, and leave with it.
#[test]
fn a_small_file_is_gathered() {
    isolated(|| {
        let (log, left) = events();
        let file = file_of(b"abc");
        let hooks = Hooks::new(move |server: &Server, socket| {
            text(socket)?;
            let before = server.stats().bytes_out;
            socket.cork()?;
            socket.send(b"head ")?;
            for n in 0..3 {
                assert_eq!(socket.sendfile(&file, BEFORE + n, 3 - n).unwrap(), 3 - n);
            }
            assert_eq!(status(socket.sendfile(&file, BEFORE, 4)), Status::Io);
            Ok(log.add(server.stats().bytes_out - before))
        });
        let server = start(non_blocking(1), hooks);
        Client::connect(&server).saying("x").expect("head abcbcc");
        assert_eq!(left.next(), 0);
    });
}

/// Q11: A file that ends too early, and a descriptor that cannot be read, are errors of the call. The
/// connection stays.
#[test]
fn a_file_that_cannot_be_sent() {
    isolated(|| {
        for config in both_modes() {
            let hooks = Hooks::new(|_, socket| {
                text(socket)?;
                let (short, folder) = (file_of(b"short"), File::open("/").unwrap());
                assert_eq!(socket.sendfile(&short, BEFORE, 0).unwrap(), 0);
                for (file, offset, len, expected) in [
                    (&short, BEFORE + 5, 1, Status::Io),
                    (&folder, 0, 1, Status::Io),
                    (&short, u64::MAX, 1, Status::Invalid),
                    (&short, i64::MAX as u64, 1, Status::Invalid),
                ] {
                    assert_eq!(status(socket.sendfile(file, offset, len)), expected);
                }
                assert_eq!(socket.sendfile(&short, BEFORE, 5).unwrap(), 5);
                socket.close();
                assert_eq!(status(socket.sendfile(&short, BEFORE, 5)), Status::Closed);
                Ok(())
            });
            let server = start(config, hooks);
            Client::connect(&server).saying("x").expect_last("short");
            assert_eq!(server.stats().handler_errors, 0);
        }
    });
}

/// Q9: Where the kernel cannot send a file by itself, or must not, the library reads it.
#[test]
fn a_file_that_sendfile_refuses() {
    isolated(|| {
        for errno in [libc::EINVAL, libc::EPERM] {
            let file = file_of(&pattern(BULK));
            refuse_call(libc::SYS_sendfile, 1, file.as_raw_fd(), errno);
            let (hooks, accepted) = sending(file);
            let server = start(patient(non_blocking(1)), hooks);
            let mut client = Client::small(&server).saying("x");
            assert!(client.rest() == framed(&pattern(BULK)));
            assert_eq!(accepted.drain().iter().sum::<u64>(), BULK as u64);
        }
    });
}

/// Q11: Whatever error a file system gives, as one without a key for the file, it is the file's.
#[test]
fn a_file_system_that_fails() {
    isolated(|| {
        let file = file_of(&pattern(BULK));
        for (call, at) in [(libc::SYS_sendfile, 1), (libc::SYS_pread64, 0)] {
            refuse_call(call, at, file.as_raw_fd(), libc::ENOKEY);
        }
        let file = Arc::new(file);
        for config in both_modes() {
            let file = file.clone();
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                assert_eq!(status(socket.sendfile(&*file, BEFORE, BULK as u64)), Status::Io);
                socket.send(b"open")?;
                socket.close();
                Ok(())
            });
            let server = start(config, hooks);
            Client::connect(&server).saying("x").expect_last("open");
        }
    });
}

/// Q10, Q3: A file that is small but longer than `send_limit` leaves behind another send too.
#[test]
fn a_small_file_above_the_bound() {
    isolated(|| {
        let small = pattern(5000);
        let (hooks, accepted) = sending(file_of(&small));
        let limits = patient(non_blocking(1)).send_limit(1000).high_water_mark(1000);
        let server = start(limits, hooks);
        let mut client = Client::connect(&server).saying("x");
        assert!(client.rest() == framed(&small));
        assert_eq!(accepted.drain().iter().sum::<u64>(), 5000);
    });
}

/// Q11, GS8: What was sent before a file that cannot be sent leaves immediately: the kernel does not
/// keep it for more.
#[test]
fn a_head_without_its_file() {
    isolated(|| {
        let hooks = Hooks::new(|_, socket| {
            text(socket)?;
            let (short, folder) = (file_of(&pattern(20_000)), File::open("/").unwrap());
            for file in [folder, short] {
                socket.cork()?;
                socket.send(b"head ")?;
                let result = socket.sendfile(&file, BEFORE, 30_000);
                assert_eq!(status(result), Status::Io);
                let mut unsent: libc::c_int = -1;
                // SAFETY: the call writes a number: the bytes that the kernel keeps (SIOCOUTQNSD).
                assert_eq!(unsafe { libc::ioctl(socket.raw_fd(), 0x894b, &mut unsent) }, 0);
                assert_eq!(unsent, 0);
            }
            socket.close();
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let expected = [b"head head ", &pattern(20_000)[..]].concat();
        assert!(Client::connect(&server).saying("x").rest() == expected);
    });
}

/// Q9, HS3: A connection that takes no more is an error of the call. No SIGPIPE comes to the program,
/// whose thread runs the turns.
#[test]
fn no_signal_comes() {
    isolated(|| {
        // SAFETY: the default ends the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let file = Arc::new(file_of(&pattern(BULK)));
        let (log, results) = events();
        let hooks = Hooks::new(move |_, socket| {
            // As after a failure that the kernel has reported before: EPIPE.
            // SAFETY: the descriptor is open.
            unsafe { libc::shutdown(socket.raw_fd(), libc::SHUT_WR) };
            log.add(status(socket.sendfile(&*file, BEFORE, BULK as u64)));
            Ok(())
        });
        let server = hosted_with(non_blocking(1), hooks);
        let client = host(&server, || Client::connect(&server).saying("x"));
        assert_eq!(host(&server, move || results.next()), Status::Reset);
        drop(client);
        host(&server, || wait_idle(&server));
        let mut pending = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigpending initialises the set.
        let is_pending = unsafe {
            assert_eq!(libc::sigpending(pending.as_mut_ptr()), 0);
            libc::sigismember(pending.as_ptr(), libc::SIGPIPE)
        };
        assert_eq!(is_pending, 0);
    });
}

/// Q9, D1: A detached socket sends a file, all of it.
#[test]
fn a_detached_socket_sends_a_file() {
    isolated(|| {
        let (server, owned) = detaching(non_blocking(1));
        let (mut client, mut owned) = detached(&server, &owned);
        let sent = std::thread::spawn(move || {
            let mut socket = owned.socket();
            socket.send(b"head ").unwrap();
            let sent = socket.sendfile(file_of(&pattern(BULK)), BEFORE, BULK as u64);
            socket.send(b" tail").unwrap();
            sent.unwrap()
        });
        assert!(client.rest() == framed(&pattern(BULK)));
        assert_eq!(sent.join().unwrap(), BULK as u64);
    });
}

/// Q9, Y1: A file goes over a unix socket too.
#[test]
fn over_a_unix_socket() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let (hooks, _accepted) = sending(file_of(&pattern(BULK)));
            let server = started(&folder.service("socket"), patient(config), hooks);
            let mut client = Local::to(folder.path("socket")).saying("x");
            let mut got = Vec::new();
            client.0.read_to_end(&mut got).unwrap();
            assert!(got == framed(&pattern(BULK)));
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();
        }
    });
}

/// A2.2, Q9: Where another thread ends a worker's connection in the middle of a file, no orderly end
/// follows: the client must not take the part for the whole.
#[test]
fn an_end_in_the_middle() {
    isolated(|| {
        for aborts in [false, true] {
            let (log, results) = events();
            let file = file_of(&pattern(BULK));
            let hooks = Hooks::new(move |_, socket| {
                text(socket)?;
                Ok(log.add(status(socket.sendfile(&file, BEFORE, BULK as u64))))
            });
            let (hooks, ids) = hooks.telling_ids();
            let server = start(blocking(1), hooks);
            let mut client = Client::small(&server).saying("x");
            // More than one of the pieces in which it is read.
            assert!(client.receive(100_000) == pattern(BULK)[..100_000]);
            match aborts {
                true => server.abort(ids.next()).unwrap(),
                false => server.close(ids.next()).unwrap(),
            }
            assert!(client.drain().is_err());
            assert_ne!(results.next(), Status::Ok);
        }
    });
}

/// C5, Q10: A stop lets what was accepted of a file leave, and then cuts the connection.
#[test]
fn a_stop_in_the_middle() {
    isolated(|| {
        let (hooks, accepted) = sending(file_of(&pattern(BULK)));
        let server = start(non_blocking(1).drain_timeout(ms(100)), hooks);
        let mut client = Client::small(&server).saying("x");
        let first = accepted.next();
        server.stop().unwrap();
        let got = client.drain().unwrap_or(0) as u64;
        assert!(first < BULK as u64 && got <= 5 + first, "{got} of {first}");
        drop(server);
    });
}
