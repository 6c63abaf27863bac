//! Connections that the program brings: sockets of its own, and connects.

#![forbid(unsafe_code)]

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Engine, Server};
use crate::address::Peer;
use crate::config::MAX_TIME;
use crate::conn::ConnId;
use crate::connect::Connect;
use crate::descriptor::{self, AdoptError};
use crate::error::{Error, Status};
use crate::event::{LoopGroup, Newcomer};

impl Server {
    /// Makes a connection of a connected stream socket: it has the server's
    /// handler, `on_open`, limits and deadlines, and `user_data` as its user
    /// data. In a callback it joins the loop of that callback, else the loop
    /// with the fewest connections. It goes without TLS
    /// ([`Socket::starttls`](crate::Socket::starttls) makes this side the TLS
    /// server; the library is no TLS client) and came by no service. It counts
    /// among `max_connections`, which does not refuse it. The socket gets the
    /// server's `no_delay` and `keep_alive`, `O_NONBLOCK` and `FD_CLOEXEC`. Any
    /// thread may call this, from `on_start` on and until a stop begins.
    ///
    /// The connect of the socket may be in progress: bytes sent by id wait, and
    /// `on_open` runs when it is connected. If it fails, the exception handler
    /// gets [`Status::Connect`] with the socket, which has its user data;
    /// neither `on_open` nor `on_close` runs.
    ///
    /// Errors, with the descriptor: [`Status::Invalid`] for what is no connected
    /// or connecting stream socket; [`Status::Busy`] for one that is in the
    /// loop already; [`Status::NotNonBlocking`]; [`Status::State`] before
    /// `on_start` and once a stop has begun; [`Status::Io`] or
    /// [`Status::NoMemory`] where the system has no room. They drop
    /// `user_data`.
    ///
    /// ```
    /// use net_server::{Config, Server, Socket};
    /// use std::{io::Read, net::TcpListener, os::unix::net::UnixStream};
    ///
    /// let handler = |_: &Server, socket: &mut Socket<'_>| socket.recv(&mut [0; 100]).map(drop);
    /// let server = Server::with_config("127.0.0.1:0", handler, Config::new().non_blocking(true))?;
    /// server.start_background()?;
    /// let (ours, mut theirs) = UnixStream::pair()?;
    /// let adopted = server.adopt(ours, "this is its user data").map_err(|failed| failed.error)?;
    /// server.send(adopted, b"hello")?;
    /// theirs.read_exact(&mut [0; 5])?;
    ///
    /// let upstream = TcpListener::bind("127.0.0.1:0")?;
    /// let connected = server.connect(&upstream.local_addr()?.to_string(), None, "upstream")?;
    /// server.send(connected, b"hello")?; // It waits until the connection is there.
    /// upstream.accept()?.0.read_exact(&mut [0; 5])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn adopt(
        &self,
        socket: impl Into<OwnedFd>,
        user_data: impl Any + Send,
    ) -> Result<ConnId, AdoptError> {
        let fd = socket.into();
        let found = self.entrance().and_then(|loops| Ok((loops, descriptor::peer_of(fd.as_fd())?)));
        let (loops, peer) = match found {
            Ok(found) => found,
            Err(error) => return Err(AdoptError { error, fd }),
        };
        let connect = peer.is_none().then(Connect::of_program);
        let (peer, user_data) = (peer.unwrap_or_default(), Box::new(user_data));
        let newcomer = Newcomer { fd, peer, connect, user_data };
        self.enter(&loops, newcomer)
            .map_err(|(error, newcomer)| AdoptError { error, fd: newcomer.fd })
    }

    /// Connects to a service, `"host:port"`, `"unix:/path"` or `"unix:@name"`,
    /// and makes a connection of it as [`Server::adopt`] does with a socket
    /// whose connect is in progress. The calling thread resolves a host name,
    /// and may wait for that; a literal address, as in `"127.0.0.1:80"` and
    /// `"[::1]:80"`, does not wait. The addresses are tried in turn; each has an
    /// equal share of what is left of `timeout`, which begins when the name is
    /// resolved (`None`: the kernel's, tcp(7)).
    ///
    /// A failure that comes later goes to the exception handler, with the code
    /// of the operating system.
    ///
    /// Errors: [`Status::Connect`] where connecting fails immediately, also for
    /// lack of a descriptor and for a full backlog of a unix socket (`EAGAIN`);
    /// [`Status::Address`]; [`Status::Invalid`] for a bad service string, one
    /// without a host, and a time above [`MAX_TIME`](crate::MAX_TIME);
    /// [`Status::NotNonBlocking`]; [`Status::State`]; [`Status::Io`];
    /// [`Status::NoMemory`]. They drop `user_data`.
    ///
    /// Example: [`Server::adopt`].
    pub fn connect(
        &self,
        service: &str,
        timeout: Option<Duration>,
        user_data: impl Any + Send,
    ) -> Result<ConnId, Error> {
        let loops = self.entrance()?;
        if timeout.is_some_and(|time| time > MAX_TIME) {
            let max = MAX_TIME.as_millis();
            return Err(Error::new(Status::Invalid, format!("a time is at most {max} ms")));
        }
        let mut connect = Connect::resolve(service, timeout)?;
        let (fd, address) = connect.begin_next(None)?;
        let (peer, user_data) = (Peer::new(&address), Box::new(user_data));
        let newcomer = Newcomer { fd, peer, connect: Some(connect), user_data };
        self.enter(&loops, newcomer).map_err(|(error, _)| error)
    }

    #[allow(clippy::result_large_err)]
    fn enter(&self, loops: &LoopGroup, newcomer: Newcomer) -> Result<ConnId, (Error, Newcomer)> {
        let id = loops.adopt(newcomer)?;
        Ok(ConnId::from_u64(id).expect("an id is never 0"))
    }

    /// Returns the loops, if they take connections of the program now.
    fn entrance(&self) -> Result<Arc<LoopGroup>, Error> {
        self.check_process()?;
        if !self.inner.config.non_blocking {
            return Err(Error::from(Status::NotNonBlocking));
        }
        match self.running().filter(|_| !self.is_stopping()).as_deref() {
            Some(super::Running { engine: Engine::Loops(loops), .. }) => Ok(loops.clone()),
            _ => {
                let text = format!("the server is {}", self.state().name());
                Err(Error::new(Status::State, text))
            }
        }
    }
}
