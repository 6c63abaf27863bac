//! The simulated kernel's system calls. The error of a call is its errno.

use crate::files::{Kind, Listener, FIRST, IN, OUT};
use crate::local::{self, LOCAL};
use crate::world::{Event, World, MICRO, MILLI, NEVER};

/// The answer of a call.
pub type Answer = Result<i64, i32>;

/// How many bytes a socket's name has.
const NAME: usize = size_of::<libc::sockaddr_in>();

pub fn address(port: u16) -> [u8; NAME] {
    let mut name = [0; NAME];
    name[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    name[2..4].copy_from_slice(&port.to_be_bytes());
    name[4..8].copy_from_slice(&[127, 0, 0, 1]);
    name
}

/// The port from which a link's client comes, and which says which link it is.
pub fn port_of(link: u32) -> u16 {
    10_000 + link as u16
}

pub fn link_of(port: u16) -> u32 {
    u32::from(port) - 10_000
}

impl World {
    pub fn note_call(&mut self, name: &'static str, result: Answer) {
        self.report.call(name, result.err().unwrap_or(0));
        let number = match result {
            Ok(number) => number as u64,
            Err(error) => u64::from(error.unsigned_abs()) << 32,
        };
        let progress = self.progress;
        self.step(20 + name.len() as u64, u64::from(name.as_bytes()[0]), number);
        let does_nothing = match name {
            "epoll_pwait" | "ppoll" => result == Ok(0),
            _ => matches!(result, Err(libc::EAGAIN | libc::EINTR)),
        };
        if does_nothing {
            // It is no event.
            self.steps -= 1;
            self.progress = progress;
        }
        match result {
            Err(error) if error != libc::EAGAIN => {
                self.say(|| format!("    {name} fails: {}", crate::calls::error_name(error)));
            }
            _ => self.note(|| format!("    {name} = {result:?}")),
        }
    }

    /// A call that makes a descriptor may find none free.
    fn may_fail(&mut self) -> Result<(), i32> {
        match &mut self.fail_in {
            Some(0) => {
                self.fail_in = None;
                Err(self.random.one_of(&[libc::EMFILE, libc::ENFILE, libc::ENOMEM]))
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub fn socket(&mut self, domain: i32, kind: i32) -> Answer {
        self.may_fail()?;
        let port = match domain {
            libc::AF_INET => 0,
            libc::AF_UNIX => LOCAL,
            _ => return Err(libc::EAFNOSUPPORT),
        };
        let waits_not = kind & libc::SOCK_NONBLOCK != 0;
        let listener = Listener { port, ..Listener::default() };
        Ok(self.files.open(Kind::Listener(listener), waits_not).into())
    }

    pub fn new_epoll(&mut self) -> Answer {
        self.may_fail()?;
        Ok(self.files.open(Kind::Epoll(Default::default()), false).into())
    }

    pub fn new_counter(&mut self, first: u32, flags: i32) -> Answer {
        self.may_fail()?;
        let waits_not = flags & libc::EFD_NONBLOCK != 0;
        Ok(self.files.open(Kind::Counter(first.into()), waits_not).into())
    }

    pub fn new_timer(&mut self, flags: i32) -> Answer {
        self.may_fail()?;
        let waits_not = flags & libc::TFD_NONBLOCK != 0;
        Ok(self.files.open(Kind::Timer { expired: 0, setting: 0 }, waits_not).into())
    }

    fn listener(&mut self, fd: i32) -> Result<&mut Listener, i32> {
        match &mut self.files.get(fd)?.kind {
            Kind::Listener(listener) => Ok(listener),
            _ => Err(libc::EINVAL),
        }
    }

    fn link(&mut self, fd: i32) -> Result<u32, i32> {
        match &self.files.get(fd)?.kind {
            Kind::Stream(link) => Ok(*link),
            Kind::Listener(_) => Err(libc::ENOTCONN),
            _ => Err(libc::ENOTSOCK),
        }
    }

    pub fn bind(&mut self, fd: i32, name: &[u8]) -> Answer {
        self.may_fail()?;
        if self.listener(fd)?.port == LOCAL {
            *self.listener(fd)? = self.bind_local(name)?;
            return Ok(0);
        }
        let port = u16::from_be_bytes([name[2], name[3]]);
        let free = (5_000..).find(|port| self.files.listener(*port).is_none());
        let port = if port == 0 { free.ok_or(libc::EADDRINUSE)? } else { port };
        if self.files.listener(port).is_some() {
            return Err(libc::EADDRINUSE);
        }
        self.listener(fd)?.port = port;
        Ok(0)
    }

    pub fn listen(&mut self, fd: i32, backlog: i32) -> Answer {
        let listener = self.listener(fd)?;
        listener.backlog = backlog.clamp(0, 4096) as usize;
        listener.listens = true;
        Ok(0)
    }

    pub fn accept4(&mut self, fd: i32, flags: i32) -> Result<(i64, Vec<u8>), i32> {
        let is_empty = self.listener(fd)?.queue.is_empty();
        if self.exhausted.is_none() && !is_empty && self.random.once_in(self.rates.exhaustion) {
            use libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM};
            self.exhausted = Some(self.random.one_of(&[EMFILE, ENFILE, ENOMEM, ENOBUFS, EPERM]));
            let time = self.random.one_of(&[MILLI, 50 * MILLI, 2_000 * MILLI]);
            let time = self.random.below(time);
            self.after(time, Event::Plenty);
        }
        if !is_empty && self.random.once_in(self.rates.accept_error) {
            let is_local = self.listener(fd)?.port == LOCAL;
            match self.random.one_of(&[libc::ECONNABORTED, libc::EPROTO, libc::EINTR]) {
                error if is_local || error == libc::EINTR => return Err(libc::EINTR),
                error => {
                    // That client is gone.
                    if let Some(link) = self.listener(fd)?.queue.pop_front() {
                        self.sock_close(link, 0, true);
                    }
                    return Err(error);
                }
            }
        }
        let accepted = self.accept(fd, flags & libc::SOCK_NONBLOCK != 0);
        match accepted {
            Err(libc::EAGAIN) | Ok(_) => {
                self.accepted_at = self.now;
                self.taken += usize::from(self.quiesce_at.is_some() && accepted.is_ok());
            }
            Err(_) => self.refused_at = Some(self.now),
        }
        let (new, link) = accepted?;
        Ok((new.into(), self.name_of_peer(link)))
    }

    fn name_of_peer(&mut self, link: u32) -> Vec<u8> {
        match self.side(link, 0).is_local {
            true => local::name_of(link),
            false => address(port_of(link)).to_vec(),
        }
    }

    /// `SO_PEERCRED`: the process says which link it is.
    pub fn credentials(&mut self, fd: i32) -> Result<[i32; 3], i32> {
        let link = self.link(fd)?;
        match self.side(link, 0).is_local {
            true => Ok([port_of(link).into(), 1, 2]),
            false => Ok([0, -1, -1]),
        }
    }

    pub fn connect(&mut self, fd: i32, name: &[u8]) -> Answer {
        if name[..2] == (libc::AF_UNIX as u16).to_ne_bytes() {
            self.listener(fd)?;
            return self.look_who_listens();
        }
        if name[..2] == (libc::AF_INET as u16).to_ne_bytes() {
            self.listener(fd)?;
            return self.dial(fd, u16::from_be_bytes([name[2], name[3]]));
        }
        if name[..2] != (libc::AF_UNSPEC as u16).to_ne_bytes() {
            return Err(libc::EAFNOSUPPORT);
        }
        let link = self.link(fd)?;
        if self.side(link, 0).is_local {
            return Err(libc::EINVAL);
        }
        self.sock_disconnect(link, 0);
        Ok(0)
    }

    fn is_interrupted(&mut self) -> bool {
        self.random.once_in(self.rates.interrupt)
    }

    fn waits(&mut self, fd: i32, flags: i32) -> Result<bool, i32> {
        Ok(!self.files.get(fd)?.non_blocking && flags & libc::MSG_DONTWAIT == 0)
    }

    /// Repeats what cannot be done yet until it can, if the call waits.
    fn repeat<T>(
        &mut self,
        waits: bool,
        mut body: impl FnMut(&mut World) -> Result<T, i32>,
    ) -> Result<T, i32> {
        if self.is_interrupted() {
            return Err(libc::EINTR);
        }
        loop {
            match body(self) {
                Err(libc::EAGAIN) if waits => {
                    if !self.advance(NEVER) {
                        self.find("a call waits, and nothing will happen".into());
                        return Err(libc::ETIMEDOUT);
                    }
                }
                result => return result,
            }
        }
    }

    pub fn recv(&mut self, fd: i32, buffer: &mut [u8], flags: i32) -> Answer {
        let (link, waits) = (self.link(fd)?, self.waits(fd, flags)?);
        let peek = flags & libc::MSG_PEEK != 0;
        let count = self.repeat(waits, |w| w.sock_receive(link, 0, buffer, peek))?;
        Ok(count as i64)
    }

    pub fn send(&mut self, fd: i32, pieces: &[&[u8]], flags: i32) -> Answer {
        let (link, waits) = (self.link(fd)?, self.waits(fd, flags)?);
        if waits {
            self.find("a send that may wait for ever".into());
        }
        let count = self.repeat(waits, |w| w.sock_send(link, 0, pieces))?;
        Ok(count as i64)
    }

    pub fn read(&mut self, fd: i32, buffer: &mut [u8]) -> Answer {
        let count = match &mut self.files.get(fd)?.kind {
            Kind::Stream(_) => return self.recv(fd, buffer, 0),
            Kind::Counter(count) => count,
            Kind::Timer { expired, .. } => expired,
            _ => return Err(libc::EINVAL),
        };
        let count = std::mem::take(count);
        if count == 0 {
            return Err(libc::EAGAIN);
        }
        buffer[..8].copy_from_slice(&count.to_ne_bytes());
        if let Kind::Counter(_) = self.files.get(fd)?.kind {
            self.wake((fd - FIRST) as u32, OUT);
        }
        Ok(8)
    }

    pub fn write(&mut self, fd: i32, buffer: &[u8]) -> Answer {
        if let Kind::Stream(_) = self.files.get(fd)?.kind {
            return self.send(fd, &[buffer], 0);
        }
        let Kind::Counter(count) = &mut self.files.get(fd)?.kind else { return Err(libc::EINVAL) };
        *count += u64::from_ne_bytes(buffer.try_into().map_err(|_| libc::EINVAL)?);
        self.wake((fd - FIRST) as u32, IN);
        Ok(8)
    }

    pub fn shutdown(&mut self, fd: i32, how: i32) -> Answer {
        if let Kind::Listener(listener) = &mut self.files.get(fd)?.kind {
            if !listener.listens {
                return Err(libc::ENOTCONN);
            }
            listener.is_shut = true;
            if listener.port == LOCAL {
                self.wake((fd - FIRST) as u32, 0);
                return Ok(0);
            }
            let mut listener = std::mem::take(listener);
            self.look_at_backlog(&listener, false);
            self.drop_queue(&mut listener);
            *self.listener(fd)? = listener;
            self.wake((fd - FIRST) as u32, 0);
            return Ok(0);
        }
        let link = self.link(fd)?;
        if how == libc::SHUT_RDWR && self.side(link, 0).is_local {
            self.local_shut(link, 0, true);
            return Ok(0);
        }
        if how == libc::SHUT_RD {
            self.find("the library shuts the kernel's input".into());
        }
        self.sock_end_sending(link, 0).map(|()| 0)
    }

    pub fn close(&mut self, fd: i32) -> Answer {
        let file = match self.files.close(fd) {
            Ok(file) => file,
            Err(error) => {
                self.find(format!("close of a descriptor that is not open: {fd}"));
                return Err(error);
            }
        };
        match file.kind {
            Kind::Stream(link) => {
                self.links[link as usize].file = None;
                self.sock_close(link, 0, file.resets_on_close);
            }
            Kind::Listener(mut listener) => {
                self.look_at_backlog(&listener, listener.port == LOCAL);
                self.drop_queue(&mut listener);
            }
            _ => {}
        }
        Ok(0)
    }

    pub fn name(&mut self, fd: i32, side: u8) -> Result<Vec<u8>, i32> {
        match &self.files.get(fd)?.kind {
            Kind::Listener(listener) if side == 0 && listener.port == LOCAL => {
                Ok(self.local_name())
            }
            Kind::Listener(listener) if side == 0 => Ok(address(listener.port).to_vec()),
            Kind::Stream(link) if side == 1 => {
                let link = *link;
                let was_connected = self.links[link as usize].is_connected;
                if was_connected {
                    Ok(self.name_of_peer(link))
                } else {
                    Err(libc::ENOTCONN)
                }
            }
            Kind::Stream(link) => {
                let client = self.links[*link as usize].client;
                match self.clients[client as usize].port {
                    LOCAL => Ok(self.local_name()),
                    port => Ok(address(port).to_vec()),
                }
            }
            _ => Err(libc::ENOTCONN),
        }
    }

    pub fn option(&mut self, fd: i32, level: i32, name: i32) -> Result<i32, i32> {
        let stream = match &self.files.get(fd)?.kind {
            Kind::Stream(link) => Some(*link),
            Kind::Listener(_) => None,
            _ => return Err(libc::ENOTSOCK),
        };
        let is_local = match stream {
            Some(link) => self.side(link, 0).is_local,
            None => self.listener(fd)?.port == LOCAL,
        };
        match (level, name, stream) {
            (libc::SOL_SOCKET, libc::SO_TYPE, _) => Ok(libc::SOCK_STREAM),
            (libc::SOL_SOCKET, libc::SO_DOMAIN, _) if is_local => Ok(libc::AF_UNIX),
            (libc::SOL_SOCKET, libc::SO_DOMAIN, _) => Ok(libc::AF_INET),
            (libc::SOL_SOCKET, libc::SO_PROTOCOL, _) if is_local => Ok(0),
            (libc::SOL_SOCKET, libc::SO_PROTOCOL, _) => Ok(libc::IPPROTO_TCP),
            (libc::IPPROTO_TCP, ..) if is_local => Err(libc::EOPNOTSUPP),
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN, _) => Ok(stream.is_none().into()),
            (libc::SOL_SOCKET, libc::SO_ERROR, Some(link)) => {
                Ok(std::mem::take(&mut self.side(link, 0).error))
            }
            (libc::SOL_SOCKET, libc::SO_ERROR, None) => Ok(0),
            (libc::IPPROTO_TCP, libc::TCP_INFO, Some(link)) => {
                Ok(self.side(link, 0).state().into())
            }
            _ => {
                self.find(format!("getsockopt({level}, {name}) is not simulated"));
                Err(libc::ENOPROTOOPT)
            }
        }
    }

    pub fn set_option(&mut self, fd: i32, level: i32, name: i32, value: &[u8]) -> Answer {
        let file = self.files.get(fd)?;
        if (level, name) == (libc::SOL_SOCKET, libc::SO_LINGER) {
            let on = i32::from_ne_bytes(value[..4].try_into().map_err(|_| libc::EINVAL)?);
            let time = i32::from_ne_bytes(value[4..8].try_into().map_err(|_| libc::EINVAL)?);
            file.resets_on_close = on != 0 && time == 0;
        }
        Ok(0)
    }

    pub fn ioctl(&mut self, fd: i32, request: libc::c_ulong, place: &mut i32) -> Answer {
        match request {
            libc::FIONBIO => self.files.get(fd)?.non_blocking = *place != 0,
            libc::TIOCOUTQ => {
                let link = self.link(fd)?;
                *place = self.side(link, 0).outstanding() as i32;
            }
            libc::FIONREAD => {
                let link = self.link(fd)?;
                *place = self.side(link, 0).input.len() as i32;
            }
            _ => {
                self.find(format!("ioctl({request:#x}) is not simulated"));
                return Err(libc::ENOTTY);
            }
        }
        Ok(0)
    }

    pub fn fcntl(&mut self, fd: i32, command: i32, value: usize) -> Answer {
        let file = self.files.get(fd)?;
        match command {
            libc::F_GETFD => Ok(libc::FD_CLOEXEC.into()),
            libc::F_SETFD => Ok(0),
            libc::F_GETFL => {
                Ok(i64::from(libc::O_RDWR | if file.non_blocking { libc::O_NONBLOCK } else { 0 }))
            }
            libc::F_SETFL => {
                file.non_blocking = value as i32 & libc::O_NONBLOCK != 0;
                Ok(0)
            }
            _ => {
                self.find(format!("fcntl({command}) is not simulated"));
                Err(libc::EINVAL)
            }
        }
    }

    pub fn set_timer(&mut self, fd: i32, time: u64) -> Answer {
        let Kind::Timer { expired, setting } = &mut self.files.get(fd)?.kind else {
            return Err(libc::EINVAL);
        };
        *expired = 0;
        *setting += 1;
        let setting = *setting;
        if time > 0 {
            self.after(time, Event::Expire { file: (fd - FIRST) as u32, setting });
        }
        Ok(0)
    }

    pub fn poll(&mut self, entries: &mut [libc::pollfd], time: Option<u64>) -> Answer {
        let until = time.map_or(NEVER, |time| self.now.saturating_add(time));
        if time != Some(0) && self.is_interrupted() {
            return Err(libc::EINTR);
        }
        loop {
            let mut found = 0;
            for entry in entries.iter_mut() {
                let ready = self.ready_for((entry.fd - FIRST) as u32);
                let always = libc::POLLERR | libc::POLLHUP;
                entry.revents = ready as i16 & (entry.events | always);
                found += i64::from(entry.revents != 0);
            }
            if found > 0 || !self.wait_for(until) {
                return Ok(found);
            }
        }
    }

    /// Lets the next thing happen. Returns whether the wait goes on.
    fn wait_for(&mut self, until: u64) -> bool {
        if self.now >= until {
            return false;
        }
        if !self.advance(until) && until == NEVER {
            self.find("a wait without end, and nothing will happen".into());
            return false;
        }
        true
    }

    pub fn epoll_wait(&mut self, fd: i32, max: usize, millis: i32) -> Result<Vec<(u64, u32)>, i32> {
        let until = match u64::try_from(millis) {
            Ok(millis) => self.now + millis * MILLI,
            Err(_) => NEVER,
        };
        let max = if self.random.once_in(self.rates.split) { max.min(1) } else { max };
        loop {
            let found = self.take_events(fd, max)?;
            if !found.is_empty() || self.now >= until {
                return Ok(found);
            }
            if self.is_interrupted() {
                return Err(libc::EINTR);
            }
            if !self.wait_for(until) {
                return Ok(found);
            }
            // The thread runs again some time after the wake-up.
            self.now += self.random.between(MICRO, 30 * MICRO);
            self.pump();
        }
    }

    pub fn look_at_clock(&mut self) -> u64 {
        self.now += 30;
        self.now
    }

    pub fn fill_random(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            let number = self.entropy.next().to_ne_bytes();
            piece.copy_from_slice(&number[..piece.len()]);
        }
    }
}
