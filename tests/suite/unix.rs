//! Unix sockets.

use crate::api::{Config, Hooks, Server, State, Status};
use crate::support::*;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A folder of the test's own, which goes with it.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("ns-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn service(&self, name: &str) -> String {
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
pub(super) struct Local(pub(super) UnixStream);

impl Local {
    pub(super) fn to(path: impl AsRef<Path>) -> Local {
        Local::of(UnixStream::connect(path).expect("connect"))
    }

    pub(super) fn of(stream: UnixStream) -> Local {
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_write_timeout(Some(SOON)).unwrap();
        Local(stream)
    }

    pub(super) fn to_abstract(name: &str) -> Local {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.connect(&SockAddr::unix(format!("\0{name}")).unwrap()).expect("connect");
        Local::of(socket.into())
    }

    pub(super) fn saying(mut self, words: &str) -> Local {
        self.0.write_all(words.as_bytes()).unwrap();
        self
    }

    #[track_caller]
    pub(super) fn expect(&mut self, words: &str) {
        let mut heard = vec![0; words.len()];
        self.0.read_exact(&mut heard).unwrap();
        assert_eq!(String::from_utf8_lossy(&heard), words);
    }

    #[track_caller]
    pub(super) fn expect_last(&mut self, words: &str) {
        let mut heard = String::new();
        self.0.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, words);
    }

    #[track_caller]
    pub(super) fn echo(&mut self, words: &str) {
        self.0.write_all(words.as_bytes()).unwrap();
        self.expect(words);
    }
}

/// A server without TLS, in every run.
fn plain(service: &str, config: Config, hooks: Hooks) -> Server {
    Server::with_config(service, hooks, config).expect("new")
}

pub(super) fn started(service: &str, config: Config, hooks: Hooks) -> Server {
    let server = plain(service, config, hooks);
    server.start_background().expect("start");
    server
}

/// Tells what the server knows of both sides.
pub(super) fn tell_names() -> Hooks {
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

/// Y4: Of servers that start at the same time on a stale file one listens, and can be reached; the
/// others fail.
#[test]
fn one_server_replaces_a_stale_file() {
    isolated(|| {
        const SERVERS: usize = 4;
        let folder = Folder::new();
        let path = folder.path("socket");
        for _ in 0..300 {
            drop(UnixListener::bind(&path).unwrap());
            let servers = [(); SERVERS]
                .map(|()| plain(&folder.service("socket"), non_blocking(1), Hooks::new(echo)));
            let together = std::sync::Barrier::new(SERVERS);
            let start = |server: &Server| {
                together.wait();
                server.start_hosted().map_err(|error| error.status())
            };
            let started = std::thread::scope(|scope| {
                let threads = servers.each_ref().map(|server| scope.spawn(|| start(server)));
                threads.map(|thread| thread.join().unwrap())
            });
            let failed = started.iter().filter(|started| **started == Err(Status::Listen)).count();
            assert_eq!(failed, SERVERS - 1, "{started:?}");
            let _client = UnixStream::connect(&path).unwrap();
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

/// Y5, E2: A start that cannot examine the file that it has made says so, and removes the file: the
/// path has no other server.
#[test]
fn a_file_that_cannot_be_examined() {
    isolated(|| {
        let folder = Folder::new();
        for config in both_modes() {
            let server = plain(&folder.service("s"), config, Hooks::new(echo));
            faults::fail_statx(&[0, libc::ENOMEM]);
            let error = server.start_background().expect_err("started");
            assert_eq!(faults::statx_failures_left(), 0);
            assert_eq!((error.status(), error.os_code()), (Status::Listen, libc::ENOMEM));
            assert!(!error.to_string().contains("another"), "{error}");
            assert!(!folder.path("s").exists());
            server.start_background().unwrap();
            drop(server);
        }
    });
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
