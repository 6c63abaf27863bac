//! The descriptors of the simulated kernel, and its epoll(7): edges as Linux makes them. A wake-up
//! puts a file on the list of each epoll that watches for it; a wait looks at the files of that
//! list and reports what they are ready for at that moment.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::world::{Event, World};

/// The simulated descriptors begin here.
pub const FIRST: i32 = 1_000_000;

pub const IN: u32 = libc::EPOLLIN as u32;
/// The key of `sock_def_readable`, which wakes those that wait for urgent data too.
pub const INPUT: u32 = (libc::EPOLLIN | libc::EPOLLPRI) as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
pub const ERR: u32 = libc::EPOLLERR as u32;
pub const HUP: u32 = libc::EPOLLHUP as u32;
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
pub const EDGE: u32 = libc::EPOLLET as u32;

pub struct Item {
    pub events: u32,
    pub data: u64,
    pub is_ready: bool,
}

#[derive(Default)]
pub struct Epoll {
    pub items: BTreeMap<u32, Item>,
    pub ready: VecDeque<u32>,
}

#[derive(Default)]
pub struct Listener {
    /// `local::LOCAL` for a unix socket.
    pub port: u16,
    pub backlog: usize,
    pub queue: VecDeque<u32>,
    pub listens: bool,
    pub is_shut: bool,
}

pub enum Kind {
    /// A TCP socket that listens, or may.
    Listener(Listener),
    /// The server's side of a link.
    Stream(u32),
    Counter(u64),
    Timer {
        expired: u64,
        setting: u32,
    },
    Epoll(Epoll),
    /// That of a unix socket's file.
    Folder,
}

pub struct File {
    pub kind: Kind,
    pub non_blocking: bool,
    pub resets_on_close: bool,
    /// The epolls that watch it.
    watchers: Vec<u32>,
}

#[derive(Default)]
pub struct Files {
    files: Vec<Option<File>>,
    free: BTreeSet<u32>,
}

impl Files {
    /// Takes the lowest free number, as a kernel does.
    pub fn open(&mut self, kind: Kind, non_blocking: bool) -> i32 {
        let file = File { kind, non_blocking, resets_on_close: false, watchers: Vec::new() };
        let at = self.free.pop_first().unwrap_or(self.files.len() as u32);
        if at as usize == self.files.len() {
            self.files.push(None);
        }
        self.files[at as usize] = Some(file);
        FIRST + at as i32
    }

    pub fn get(&mut self, fd: i32) -> Result<&mut File, i32> {
        let at = usize::try_from(fd - FIRST).map_err(|_| libc::EBADF)?;
        self.files.get_mut(at).and_then(Option::as_mut).ok_or(libc::EBADF)
    }

    pub fn at(&mut self, at: u32) -> Option<&mut File> {
        self.files.get_mut(at as usize)?.as_mut()
    }

    fn look(&self, at: u32) -> Option<&File> {
        self.files.get(at as usize)?.as_ref()
    }

    pub fn count(&self) -> usize {
        self.files.iter().flatten().count()
    }

    pub fn listener(&mut self, port: u16) -> Option<(u32, &mut Listener)> {
        self.files.iter_mut().enumerate().find_map(|(at, file)| match file {
            Some(File { kind: Kind::Listener(l), .. }) if l.listens && l.port == port => {
                Some((at as u32, l))
            }
            _ => None,
        })
    }

    /// What a counter stands at.
    pub fn count_of(&mut self, fd: i32) -> u64 {
        match self.get(fd).map(|file| &file.kind) {
            Ok(Kind::Counter(count)) => *count,
            _ => 0,
        }
    }

    pub fn port(&mut self, fd: i32) -> u16 {
        match self.get(fd).map(|file| &file.kind) {
            Ok(Kind::Listener(listener)) => listener.port,
            _ => 0,
        }
    }

    pub fn epoll(&mut self, fd: i32) -> Result<&mut Epoll, i32> {
        match &mut self.get(fd)?.kind {
            Kind::Epoll(epoll) => Ok(epoll),
            _ => Err(libc::EINVAL),
        }
    }

    fn epoll_at(&mut self, at: u32) -> Option<&mut Epoll> {
        match &mut self.at(at)?.kind {
            Kind::Epoll(epoll) => Some(epoll),
            _ => None,
        }
    }

    /// Frees the number.
    pub fn close(&mut self, fd: i32) -> Result<File, i32> {
        self.get(fd)?;
        let at = (fd - FIRST) as u32;
        let file = self.files[at as usize].take().ok_or(libc::EBADF)?;
        self.free.insert(at);
        for epoll in &file.watchers {
            if let Some(epoll) = self.epoll_at(*epoll) {
                epoll.items.remove(&at);
                epoll.ready.retain(|ready| *ready != at);
            }
        }
        if let Kind::Epoll(epoll) = &file.kind {
            for watched in epoll.items.keys() {
                if let Some(file) = self.at(*watched) {
                    file.watchers.retain(|watcher| *watcher != at);
                }
            }
        }
        Ok(file)
    }
}

impl World {
    /// What a file is ready for (poll(2)).
    pub fn ready_for(&mut self, at: u32) -> u32 {
        let Some(file) = self.files.at(at) else { return 0 };
        match &mut file.kind {
            Kind::Listener(l) if !l.listens => OUT | HUP,
            Kind::Listener(l) if l.is_shut => IN | OUT | RDHUP | HUP,
            Kind::Listener(l) => u32::from(!l.queue.is_empty()) * IN,
            Kind::Counter(count) => OUT | (u32::from(*count > 0) * IN),
            Kind::Timer { expired, .. } => u32::from(*expired > 0) * IN,
            Kind::Stream(link) => {
                let link = *link;
                self.stream_ready_for(link)
            }
            Kind::Epoll(_) => u32::from(self.has_events(at)) * IN,
            Kind::Folder => 0,
        }
    }

    /// Whether a wait would find events. What is ready no more leaves the list
    /// (`__ep_eventpoll_poll`).
    fn has_events(&mut self, at: u32) -> bool {
        while let Some(epoll) = self.files.epoll_at(at) {
            let Some(&item) = epoll.ready.front() else { break };
            let wanted = epoll.items[&item].events;
            if self.ready_for(item) & (wanted | ERR | HUP) != 0 {
                return true;
            }
            let Some(epoll) = self.files.epoll_at(at) else { break };
            epoll.ready.pop_front();
            if let Some(item) = epoll.items.get_mut(&item) {
                item.is_ready = false;
            }
        }
        false
    }

    /// A file has changed: `key` says how, 0 in all ways. An epoll that has the file on its list
    /// already is a change again for those that watch it (`ep_poll_callback`).
    pub fn wake(&mut self, at: u32, key: u32) {
        let Some(file) = self.files.look(at) else { return };
        let watchers = file.watchers.clone();
        // The latest is the first (`add_wait_queue`).
        for watcher in watchers.into_iter().rev() {
            let Some(epoll) = self.files.epoll_at(watcher) else { continue };
            let Some(item) = epoll.items.get_mut(&at) else { continue };
            if key != 0 && key & (item.events | ERR | HUP) == 0 {
                continue;
            }
            if !item.is_ready {
                item.is_ready = true;
                epoll.ready.push_back(at);
            }
            self.wake(watcher, IN);
        }
    }

    pub fn on_expire(&mut self, at: u32, of: u32) {
        if let Some(File { kind: Kind::Timer { expired, setting }, .. }) = self.files.at(at) {
            if *setting == of {
                *expired += 1;
                self.wake(at, IN);
            }
        }
    }

    pub fn epoll_ctl(
        &mut self,
        epoll: i32,
        op: i32,
        fd: i32,
        wanted: Option<(u32, u64)>,
    ) -> Result<i64, i32> {
        self.files.get(fd)?;
        let at = (fd - FIRST) as u32;
        let epoll_at = (epoll - FIRST) as u32;
        let has = self.files.epoll(epoll)?.items.contains_key(&at);
        let (events, data) = wanted.unwrap_or_default();
        match op {
            libc::EPOLL_CTL_ADD if has => return Err(libc::EEXIST),
            libc::EPOLL_CTL_ADD => {
                if self.random.once_in(self.rates.no_memory) {
                    return Err(self.random.one_of(&[libc::ENOMEM, libc::ENOSPC]));
                }
                let item = Item { events, data, is_ready: false };
                self.files.epoll(epoll)?.items.insert(at, item);
                self.files.get(fd)?.watchers.push(epoll_at);
            }
            _ if !has => return Err(libc::ENOENT),
            libc::EPOLL_CTL_MOD => {
                let items = &mut self.files.epoll(epoll)?.items;
                let item = items.get_mut(&at).ok_or(libc::ENOENT)?;
                (item.events, item.data) = (events, data);
            }
            libc::EPOLL_CTL_DEL => {
                let epoll = self.files.epoll(epoll)?;
                epoll.items.remove(&at);
                epoll.ready.retain(|ready| *ready != at);
                self.files.get(fd)?.watchers.retain(|watcher| *watcher != epoll_at);
                return Ok(0);
            }
            _ => return Err(libc::EINVAL),
        }
        // What it is ready for already is an event.
        if self.ready_for(at) & (events | ERR | HUP) != 0 {
            self.put_on_list(epoll_at, at);
        }
        if self.random.once_in(self.rates.spurious) {
            let time = self.random.below(20_000_000);
            self.after(time, Event::Spurious { file: at });
        }
        Ok(0)
    }

    fn put_on_list(&mut self, epoll_at: u32, at: u32) {
        let Some(epoll) = self.files.epoll_at(epoll_at) else { return };
        let Some(item) = epoll.items.get_mut(&at) else { return };
        if !item.is_ready {
            item.is_ready = true;
            epoll.ready.push_back(at);
            self.wake(epoll_at, IN);
        }
    }

    /// Takes the events that are there, `max` at most: their data and bits.
    pub fn take_events(&mut self, epoll: i32, max: usize) -> Result<Vec<(u64, u32)>, i32> {
        let mut found = Vec::new();
        let mut again = Vec::new();
        for _ in 0..self.files.epoll(epoll)?.ready.len() {
            if found.len() == max {
                break;
            }
            let list = self.files.epoll(epoll)?;
            let Some(at) = list.ready.pop_front() else { break };
            let Some(item) = list.items.get_mut(&at) else { continue };
            item.is_ready = false;
            let (events, data) = (item.events, item.data);
            let bits = self.ready_for(at) & (events | ERR | HUP);
            if bits == 0 {
                continue;
            }
            found.push((data, bits));
            if events & EDGE == 0 {
                again.push(at);
            }
        }
        // Level-triggered ones stay on the list, which is no change for an epoll around this one.
        for at in again {
            let list = self.files.epoll(epoll)?;
            let Some(item) = list.items.get_mut(&at).filter(|item| !item.is_ready) else {
                continue;
            };
            item.is_ready = true;
            list.ready.push_back(at);
        }
        Ok(found)
    }
}
