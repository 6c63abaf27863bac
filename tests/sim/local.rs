//! Unix sockets (unix(7)): what is sent is with the peer immediately, and so is an end. The comments
//! name the functions of Linux. A path is that of one file, `PATH`.

use net_server::{Config, Server, Socket, Status};

use crate::files::{Kind, Listener, ERR, HUP, IN, INPUT, OUT, RDHUP};
use crate::kernel::port_of;
use crate::tcp::Fin;
use crate::world::{with, World, MILLI, SECOND};

/// Stands for the port of the service where it is a unix socket.
pub const LOCAL: u16 = 1;
pub const FOLDER: &[u8] = b"/simulated";
pub const PATH: &[u8] = b"/simulated/socket";
const NAME: &[u8] = b"\0simulated";

/// What has the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Has {
    /// The server's socket.
    Ours,
    /// The socket of a server that is gone.
    Stale,
    /// Another server listens there.
    Another,
    /// A file that is no socket.
    Plain,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct File {
    pub number: u64,
    pub has: Has,
}

/// How the service of an episode listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Tcp,
    Abstract,
    Path,
}

impl Place {
    pub fn service(self) -> &'static str {
        match self {
            Place::Tcp => "127.0.0.1:0",
            Place::Abstract => "unix:@simulated",
            Place::Path => "unix:/simulated/socket",
        }
    }
}

/// Draws where an episode's server listens, and what is there already.
pub fn choose(w: &mut World, config: Config) -> Config {
    w.place = w.random.one_of(&[Place::Abstract, Place::Path, Place::Path]);
    if w.place == Place::Path {
        let all = [None, None, None, Some(Has::Stale), Some(Has::Another), Some(Has::Plain)];
        let has = w.random.one_of(&all);
        w.path = has.map(|has| w.new_file(has));
    }
    config.unix_mode(0o640)
}

/// A `sockaddr_un`.
fn structure(name: &[u8]) -> Vec<u8> {
    [&(libc::AF_UNIX as u16).to_ne_bytes(), name].concat()
}

/// The name that the client of a link is bound to.
pub fn name_of(link: u32) -> Vec<u8> {
    structure(format!("\0client-{link}").as_bytes())
}

/// Y7.
pub fn look_at_peer(socket: &Socket<'_>, link: u32) {
    let found = socket.peer_credentials().map(|peer| peer.pid).map_err(|error| error.status());
    let is_local = with(|w| w.side(link, 0).is_local);
    let right = match is_local {
        true => Ok(port_of(link).into()),
        false => Err(Status::Unsupported),
    };
    if found != right {
        with(|w| w.find(format!("link {link}: Y7: the peer's process is {found:?}")));
    }
}

/// A start where another server, or a file, has the path: Y4.
pub fn try_to_start(server: &Server) {
    let has = with(|w| w.path.map(|file| file.has));
    if !matches!(has, Some(Has::Another | Has::Plain)) {
        return;
    }
    let result = server.start_hosted();
    let status = result.err().map(|error| error.status());
    with(|w| {
        if status != Some(Status::Listen) || w.path.map(|file| file.has) != has {
            w.find(format!("Y4: a start where {has:?} has the path: {status:?}"));
        }
        w.report.count("start at a taken path");
        w.path = None;
    });
}

/// Which link the peer of this name has, as [`net_server::Socket::peer_name`] says it.
pub fn link_of(name: &str) -> Option<u32> {
    name.strip_prefix("unix:@client-")?.parse().ok()
}

impl World {
    fn new_file(&mut self, has: Has) -> File {
        self.numbers += 1;
        File { number: self.numbers, has }
    }

    /// `unix_bind_bsd`, `unix_bind_abstract`.
    pub fn bind_local(&mut self, name: &[u8]) -> Result<Listener, i32> {
        let name = &name[2..];
        if name.first() == Some(&0) {
            if self.files.listener(LOCAL).is_some() {
                return Err(libc::EADDRINUSE);
            }
        } else if self.path.is_some() {
            return Err(libc::EADDRINUSE);
        } else {
            let file = self.new_file(Has::Ours);
            self.path = Some(file);
        }
        Ok(Listener { port: LOCAL, ..Listener::default() })
    }

    /// The name of the service.
    pub fn local_name(&self) -> Vec<u8> {
        match self.place {
            Place::Path => structure(PATH),
            _ => structure(NAME),
        }
    }

    pub fn open_folder(&mut self) -> Result<i64, i32> {
        Ok(self.files.open(Kind::Folder, false).into())
    }

    /// flock(2). Another process may have the lock, for some time.
    pub fn lock_folder(&mut self, fd: i32, operation: i32) -> Result<i64, i32> {
        self.files.get(fd)?;
        if operation & libc::LOCK_UN == 0 {
            let is_free = self.now > self.folder_held_until + SECOND;
            if is_free && self.random.once_in(6) {
                let most = self.random.one_of(&[3 * MILLI, 400 * MILLI]);
                let until = self.now + self.random.below(most);
                self.folder_held_until = self.folder_held_until.max(until);
            }
            if self.now < self.folder_held_until {
                return Err(libc::EWOULDBLOCK);
            }
        }
        Ok(0)
    }

    /// A start looks who listens at the path.
    pub fn look_who_listens(&mut self) -> Result<i64, i32> {
        match self.path.map(|file| file.has) {
            None => Err(libc::ENOENT),
            Some(Has::Another) => Ok(0),
            Some(_) => Err(libc::ECONNREFUSED),
        }
    }

    /// The type and number of the file.
    pub fn stat_path(&mut self) -> Result<(u32, u64), i32> {
        let file = self.path.ok_or(libc::ENOENT)?;
        let kind = if file.has == Has::Plain { libc::S_IFREG } else { libc::S_IFSOCK };
        Ok((kind, file.number))
    }

    pub fn chmod_path(&mut self, mode: u32) -> Result<i64, i32> {
        let file = self.path.ok_or(libc::ENOENT)?;
        if file.has != Has::Ours || mode & 0o777 != 0o640 {
            self.find(format!("Y3: chmod to {mode:o} of {file:?}"));
        }
        Ok(0)
    }

    pub fn unlink_path(&mut self) -> Result<i64, i32> {
        let file = self.path.take().ok_or(libc::ENOENT)?;
        if matches!(file.has, Has::Another | Has::Plain) {
            self.find(format!("Y4, Y5: {file:?} is removed"));
        }
        Ok(0)
    }

    /// Another server takes the path over.
    pub fn replace_path(&mut self) {
        if self.has_own_file() {
            let file = self.new_file(Has::Another);
            (self.path, self.was_replaced) = (Some(file), true);
            self.report.count("path taken over");
        }
    }

    pub fn has_own_file(&self) -> bool {
        self.path.is_some_and(|file| file.has == Has::Ours)
    }

    /// When the server has ended: Y5.
    pub fn look_at_path(&mut self, has: &'static str) {
        if self.has_own_file() {
            self.find(format!("Y5: {has} leaves its file"));
        }
        if self.was_replaced && self.path.is_none() {
            self.find("Y5: the file of another server is gone".into());
        }
    }

    /// Whether a client that comes now finds the server.
    pub fn finds_server(&self) -> bool {
        self.place != Place::Path || self.has_own_file()
    }

    /// `unix_stream_sendmsg`.
    pub fn local_send(&mut self, link: u32, from: u8, bytes: &[&[u8]]) -> Result<usize, i32> {
        let now = self.now;
        let side = self.side(link, from);
        if side.fin != Fin::No || side.is_dead || side.is_unconnected {
            return Err(libc::EPIPE);
        }
        let total: usize = bytes.iter().map(|piece| piece.len()).sum();
        let count = total.min(side.room());
        if count == 0 {
            return if total == 0 { Ok(0) } else { Err(libc::EAGAIN) };
        }
        side.note_send(total, count);
        side.unacked += count;
        side.note_use(now);
        side.note_progress(now);
        let peer = self.side(link, 1 - from);
        let mut left = count;
        for piece in bytes {
            let n = left.min(piece.len());
            peer.input.extend(&piece[..n]);
            left -= n;
        }
        peer.arrived += count as u64;
        peer.arrived_at = now;
        self.wake_side(link, 1 - from, INPUT);
        Ok(count)
    }

    /// `unix_stream_read_generic`, where nothing is in the queue.
    pub fn local_end(&mut self, link: u32, at: u8) -> Result<usize, i32> {
        let side = self.side(link, at);
        match () {
            () if side.error != 0 => Err(std::mem::take(&mut side.error)),
            () if side.fin_came || side.is_unconnected => Ok(0),
            () => Err(libc::EAGAIN),
        }
    }

    /// `sock_wfree`: the peer has read.
    pub fn local_free(&mut self, link: u32, from: u8, count: usize) {
        let now = self.now;
        let side = self.side(link, from);
        side.unacked -= count;
        side.note_progress(now);
        if side.is_writable() {
            self.wake_side(link, from, OUT);
        }
    }

    /// `unix_shutdown`, of the sending side or of both.
    pub fn local_shut(&mut self, link: u32, from: u8, both: bool) {
        let now = self.now;
        let side = self.side(link, from);
        side.fin = Fin::Acked;
        side.is_unconnected |= both;
        let peer = self.side(link, 1 - from);
        if !peer.is_closed {
            (peer.fin_came, peer.arrived_at) = (true, now);
            peer.is_dead |= both;
        }
        self.wake_side(link, 1 - from, 0);
        self.wake_side(link, from, 0);
    }

    /// `unix_release_sock`. Of one that nobody has accepted the peer hears.
    pub fn local_close(&mut self, link: u32, from: u8) {
        let now = self.now;
        let is_accepted = self.links[link as usize].is_accepted;
        let side = self.side(link, from);
        side.is_closed = true;
        let tells = !side.input.is_empty() || (from == 0 && !is_accepted);
        let count = side.input.len();
        side.input.clear();
        let peer = self.side(link, 1 - from);
        peer.unacked -= count;
        if peer.is_closed {
            return;
        }
        (peer.fin_came, peer.is_dead, peer.arrived_at) = (true, true, now);
        if tells {
            peer.error = libc::ECONNRESET;
        }
        self.wake_side(link, 1 - from, 0);
    }

    /// `unix_poll`.
    pub fn local_ready_for(&mut self, link: u32) -> u32 {
        let side = self.side(link, 0);
        let may_not_send = side.fin != Fin::No || side.is_dead;
        let may_not_receive = side.fin_came || side.is_unconnected;
        let both = may_not_send && may_not_receive;
        let bits = [
            (side.error != 0, ERR),
            (both, HUP),
            (may_not_receive, RDHUP | IN),
            (!side.input.is_empty(), IN),
            (side.is_writable(), OUT),
        ];
        bits.iter().filter(|(holds, _)| *holds).fold(0, |all, (_, bits)| all | bits)
    }
}
