//! Sockets that listen: the clients that come, wait and are accepted.

use crate::files::{Kind, Listener, FIRST, INPUT};
use crate::local::LOCAL;
use crate::world::{Event, World, MILLI, SECOND};

impl World {
    /// A client's SYN arrives at the server's port.
    pub fn on_syn(&mut self, link: u32) {
        let client = self.links[link as usize].client;
        let port = self.clients[client as usize].port;
        let is_there = port != LOCAL || self.finds_server();
        let listener = self.files.listener(port).filter(|(_, l)| !l.is_shut && is_there);
        let Some((at, listener)) = listener else {
            let side = self.side(link, 1);
            (side.is_dead, side.error) = (true, libc::ECONNREFUSED);
            self.client_hears(client);
            return;
        };
        if listener.queue.len() > listener.backlog {
            let tries = self.links[link as usize].tries;
            self.links[link as usize].tries = tries + 1;
            if port == LOCAL {
                // It waits for room.
                self.report.count("unix backlog full");
                return self.after((20 * MILLI) << tries.min(6), Event::Syn { link });
            }
            // The SYN is dropped, and comes again (`tcp_syn_retries`).
            self.report.count("SYN dropped");
            return self.after(SECOND << tries.min(5), Event::Syn { link });
        }
        listener.queue.push_back(link);
        self.came_at = self.now;
        self.links[link as usize].is_connected = true;
        let now = self.now;
        for side in &mut self.links[link as usize].sides {
            (side.active_at, side.arrived_at) = (now, now);
        }
        self.wake(at, INPUT);
        self.client_hears(client);
    }

    /// Nobody accepts what waits there any more.
    pub fn drop_queue(&mut self, listener: &mut Listener) {
        for link in std::mem::take(&mut listener.queue) {
            if self.side(link, 0).is_local {
                self.local_close(link, 0);
                continue;
            }
            self.side(link, 0).is_closed = true;
            self.die_with_reset(link, 0);
        }
    }

    pub fn accept(&mut self, fd: i32, non_blocking: bool) -> Result<(i32, u32), i32> {
        if let Some(error) = self.exhausted {
            return Err(error);
        }
        let Kind::Listener(listener) = &mut self.files.get(fd)?.kind else {
            return Err(libc::EINVAL);
        };
        // A unix socket that is shut keeps those that wait.
        let is_over = listener.is_shut && (listener.port != LOCAL || listener.queue.is_empty());
        if !listener.listens || is_over {
            return Err(libc::EINVAL);
        }
        let Some(link) = listener.queue.pop_front() else { return Err(libc::EAGAIN) };
        self.links[link as usize].is_accepted = true;
        self.links[link as usize].accepted_at = self.now;
        let new = self.files.open(Kind::Stream(link), non_blocking);
        self.links[link as usize].file = Some((new - FIRST) as u32);
        Ok((new, link))
    }
}
