//! Connections that the server's side makes: connect(2), and sockets that the program hands over.

use crate::files::{Kind, FIRST};
use crate::kernel::link_of;
use crate::story::Story;
use crate::world::{Event, World, MILLI, SECOND};

/// What the other end does when the server's side connects to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remote {
    /// It is a client, which connects by itself.
    Comes,
    Accepts,
    Refuses,
    /// Nobody answers.
    Silent,
    /// connect(2) fails immediately.
    Unreachable,
}

impl World {
    /// Adds one to connect to. Returns its link.
    pub fn add_remote(&mut self) -> u32 {
        let now = self.now;
        self.add_client(0, now);
        let at = self.clients.len() as u32 - 1;
        let link = self.new_link(at);
        let story = Story::new(link, &mut self.random);
        self.stories.push(story);
        let client = &mut self.clients[at as usize];
        // It acts once it is connected.
        (client.is_over, client.link) = (true, Some(link));
        let all = [Remote::Accepts, Remote::Accepts, Remote::Accepts, Remote::Refuses];
        let rare = [Remote::Silent, Remote::Unreachable];
        let random = &mut self.random;
        let remote = if random.once_in(5) { random.one_of(&rare) } else { random.one_of(&all) };
        self.links[link as usize].remote = remote;
        link
    }

    /// connect(2) to the port of a remote, of a socket without a connection.
    pub fn dial(&mut self, fd: i32, port: u16) -> Result<i64, i32> {
        let link = link_of(port);
        self.files.get(fd)?.kind = Kind::Stream(link);
        self.links[link as usize].file = Some((fd - FIRST) as u32);
        self.begin_to_connect(link)
    }

    fn begin_to_connect(&mut self, link: u32) -> Result<i64, i32> {
        let time = match self.links[link as usize].remote {
            Remote::Unreachable => {
                let now = self.now;
                let place = &mut self.links[link as usize];
                place.decided_at = Some(now);
                place.sides[0].is_dead = true;
                return Err(libc::ENETUNREACH);
            }
            Remote::Silent => 130 * SECOND,
            _ => {
                let most = self.random.one_of(&[MILLI / 10, 5 * MILLI, 900 * MILLI]);
                self.random.below(most)
            }
        };
        self.after(time, Event::Answer { link });
        Err(libc::EINPROGRESS)
    }

    /// Makes a socket of a remote: connected, or where the remote does not accept, connecting.
    pub fn make_socket(&mut self, link: u32) -> i32 {
        let fd = self.files.open(Kind::Stream(link), false);
        self.links[link as usize].file = Some((fd - FIRST) as u32);
        if self.links[link as usize].remote == Remote::Accepts && !self.random.once_in(4) {
            self.on_answer(link);
        } else if self.links[link as usize].remote != Remote::Unreachable {
            let _ = self.begin_to_connect(link);
        } else {
            self.links[link as usize].remote = Remote::Refuses;
            let _ = self.begin_to_connect(link);
        }
        fd
    }

    /// Whether the server's side has begun to connect, and has no answer.
    pub fn is_connecting(&self, link: u32) -> bool {
        let link = &self.links[link as usize];
        link.remote != Remote::Comes && !link.is_connected && !link.sides[0].is_dead
    }

    /// `tcp_rcv_synsent_state_process`, `tcp_write_err`.
    pub fn on_answer(&mut self, link: u32) {
        let now = self.now;
        let place = &mut self.links[link as usize];
        if place.sides[0].is_closed || place.sides[0].is_dead {
            return;
        }
        place.decided_at = Some(now);
        match place.remote {
            Remote::Refuses => return self.on_reset(link, 0, libc::ECONNREFUSED),
            Remote::Silent => return self.on_reset(link, 0, libc::ETIMEDOUT),
            _ => {}
        }
        place.is_connected = true;
        for side in &mut place.sides {
            (side.active_at, side.used_at, side.arrived_at) = (now, now, now);
            side.progress_at = now;
        }
        let (client, file) = (place.client, place.file);
        if let Some(file) = file {
            self.wake(file, 0);
        }
        let client_at = &mut self.clients[client as usize];
        client_at.is_over = false;
        self.at(now, Event::Client { client });
    }
}
