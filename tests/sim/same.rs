//! Compares the simulated epoll(7) with the real kernel's: `make sim-epoll`. The same random calls
//! are made on both, on eventfds, timers, TCP connections over the loopback, a listener, and epoll
//! descriptors inside each other. Each call must return the same on both, and each wait the same
//! events, in the same order.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::episode::Tells;
use crate::random::Random;
use crate::real::Real;
use crate::world::{self, with, World, NEVER, SECOND};

/// The objects of a script: all that can be put into an epoll.
pub const EPOLLS: usize = 2;
pub const COUNTERS: usize = 2;
pub const STREAMS: usize = 3;
const TIMER: usize = EPOLLS + COUNTERS;
const LISTENER: usize = TIMER + 1;
const FIRST_STREAM: usize = LISTENER + 1;
const OBJECTS: usize = FIRST_STREAM + STREAMS;

#[derive(Clone, Copy, Debug)]
enum Act {
    Control { epoll: usize, op: c_int, object: usize, events: u32 },
    Wait { epoll: usize, max: usize },
    Poll { object: usize },
    Signal { object: usize },
    Read { object: usize },
    Expire,
    Connect { stream: usize },
    Accept { stream: usize },
    Send { stream: usize, count: usize },
    Receive { stream: usize, count: usize },
    PeerSends { stream: usize, count: usize },
    PeerReceives { stream: usize, count: usize },
    Fill { stream: usize },
    Drain { stream: usize },
    Shut { stream: usize },
    PeerShuts { stream: usize },
    Close { stream: usize },
    PeerCloses { stream: usize, resets: bool },
}

/// What a call returned: a number, or minus the errno; the events of a wait.
pub type Answer = (i64, Vec<(u64, u32)>);

/// What both kernels can do.
pub trait Kernel {
    fn is_model(&self) -> bool;
    /// Opens the client's side of a connection to the listener.
    fn connect(&mut self, stream: usize, listener: c_int);
    fn peer_sends(&mut self, stream: usize, bytes: &[u8]) -> i64;
    fn peer_receives(&mut self, stream: usize, buffer: &mut [u8]) -> i64;
    fn peer_shuts(&mut self, stream: usize) -> i64;
    fn peer_closes(&mut self, stream: usize, resets: bool);
    /// What has arrived at the client and is unread, and the state of its side.
    fn look_at_peer(&mut self, stream: usize) -> (i32, u8);
    /// Lets what is under way arrive.
    fn settle(&mut self);
}

/// The simulated one. The links have the numbers of the peers.
struct Model {
    links: [u32; STREAMS],
}

fn code<T>(result: Result<T, i32>, number: impl Fn(T) -> i64) -> i64 {
    result.map_or_else(|error| -i64::from(error), number)
}

impl Kernel for Model {
    fn is_model(&self) -> bool {
        true
    }

    fn connect(&mut self, stream: usize, listener: c_int) {
        self.links[stream] = with(|w| {
            let port = w.files.port(listener);
            let link = w.new_link(0);
            w.clients[0].port = port;
            for side in &mut w.links[link as usize].sides {
                (side.send_buffer, side.receive_buffer) = (200_000, 100_000);
            }
            w.on_syn(link);
            link
        });
    }

    fn peer_sends(&mut self, stream: usize, bytes: &[u8]) -> i64 {
        with(|w| code(w.sock_send(self.links[stream], 1, &[bytes]), |n| n as i64))
    }

    fn peer_receives(&mut self, stream: usize, buffer: &mut [u8]) -> i64 {
        with(|w| code(w.sock_receive(self.links[stream], 1, buffer, false), |n| n as i64))
    }

    fn peer_shuts(&mut self, stream: usize) -> i64 {
        with(|w| code(w.sock_end_sending(self.links[stream], 1), |()| 0))
    }

    fn peer_closes(&mut self, stream: usize, resets: bool) {
        with(|w| w.sock_close(self.links[stream], 1, resets));
    }

    fn look_at_peer(&mut self, stream: usize) -> (i32, u8) {
        with(|w| {
            let side = w.side(self.links[stream], 1);
            (side.input.len() as i32, side.state())
        })
    }

    fn settle(&mut self) {
        with(|w| while w.advance(NEVER) {});
    }
}

fn result(number: i64) -> i64 {
    match number {
        // SAFETY: errno belongs to the thread.
        -1 => -i64::from(unsafe { *libc::__errno_location() }),
        number => number,
    }
}

/// Has an acknowledgement leave that the kernel delays (`TCP_QUICKACK`).
pub fn acknowledge(fd: c_int) {
    let one: c_int = 1;
    let (value, len) = (std::ptr::from_ref(&one).cast(), size_of::<c_int>() as u32);
    // SAFETY: the value is valid.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, value, len) };
}

fn wait(epoll: c_int, max: usize) -> Answer {
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; max];
    let (call, start) = (libc::SYS_epoll_pwait, events.as_mut_ptr());
    // SAFETY: there is room for `max` events.
    let found = result(unsafe {
        libc::syscall(call, epoll, start, max, 0_usize, std::ptr::null::<libc::sigset_t>(), 0_usize)
    });
    events.truncate(found.max(0) as usize);
    (found, events.iter().map(|event| (event.u64, event.events)).collect())
}

/// One kernel, with the script's objects: -1 where one is not open.
struct Bench<K> {
    kernel: K,
    objects: [c_int; OBJECTS],
    has_peer: [bool; STREAMS],
    is_full: [bool; STREAMS],
}

impl<K: Kernel> Bench<K> {
    fn new(kernel: K) -> Bench<K> {
        let mut objects = [-1; OBJECTS];
        let non_blocking = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the calls take numbers, but bind(2), whose address is valid.
        unsafe {
            for place in &mut objects[..EPOLLS] {
                *place = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            }
            for place in &mut objects[EPOLLS..TIMER] {
                *place = libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
            }
            let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
            objects[TIMER] = libc::timerfd_create(libc::CLOCK_MONOTONIC, flags);
            objects[LISTENER] = libc::socket(libc::AF_INET, libc::SOCK_STREAM | non_blocking, 0);
            let address = crate::kernel::address(0);
            libc::bind(objects[LISTENER], address.as_ptr().cast(), address.len() as u32);
            libc::listen(objects[LISTENER], 64);
        }
        assert!(objects[..FIRST_STREAM].iter().all(|fd| *fd >= 0), "no descriptors: {objects:?}");
        Bench { kernel, objects, has_peer: [false; STREAMS], is_full: [false; STREAMS] }
    }

    fn stream(&self, stream: usize) -> c_int {
        self.objects[FIRST_STREAM + stream]
    }

    fn send(&mut self, stream: usize, count: usize) -> i64 {
        let (fd, bytes) = (self.stream(stream), vec![0_u8; count]);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the bytes are valid.
        result(unsafe { libc::send(fd, bytes.as_ptr().cast(), count, flags) } as i64)
    }

    fn receive(&mut self, stream: usize, count: usize) -> i64 {
        let (fd, mut room) = (self.stream(stream), vec![0_u8; count]);
        // SAFETY: the room is valid.
        result(unsafe { libc::recv(fd, room.as_mut_ptr().cast(), count, libc::MSG_DONTWAIT) } as i64)
    }

    fn perform(&mut self, act: Act) -> Answer {
        // SAFETY: the calls of this function take numbers, and values that are valid.
        let number = match act {
            Act::Wait { epoll, max } => return wait(self.objects[epoll], max),
            Act::Control { epoll, op, object, events } => {
                let mut event = libc::epoll_event { events, u64: object as u64 };
                let (epoll, object) = (self.objects[epoll], self.objects[object]);
                result(unsafe { libc::epoll_ctl(epoll, op, object, &mut event) }.into())
            }
            Act::Poll { object } => {
                let events = libc::POLLIN | libc::POLLRDHUP | libc::POLLPRI;
                let mut entry = libc::pollfd { fd: self.objects[object], events, revents: 0 };
                let time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                let found = unsafe { libc::ppoll(&mut entry, 1, &time, std::ptr::null()) };
                return (found.into(), vec![(0, entry.revents as u32)]);
            }
            Act::Signal { object } => {
                let one = 1_u64.to_ne_bytes();
                result(unsafe { libc::write(self.objects[object], one.as_ptr().cast(), 8) } as i64)
            }
            Act::Read { object } => {
                let mut room = [0_u8; 8];
                let place = room.as_mut_ptr().cast();
                let read = result(unsafe { libc::read(self.objects[object], place, 8) } as i64);
                read * 1000 + u64::from_ne_bytes(room) as i64
            }
            Act::Expire => {
                let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                let soon = libc::timespec { tv_sec: 0, tv_nsec: 1 };
                let time = libc::itimerspec { it_interval: zero, it_value: soon };
                let fd = self.objects[TIMER];
                let set = unsafe { libc::timerfd_settime(fd, 0, &time, std::ptr::null_mut()) };
                let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                while !self.kernel.is_model() && unsafe { libc::poll(&mut entry, 1, 1000) } == 0 {}
                result(set.into())
            }
            Act::Connect { stream } => {
                self.kernel.connect(stream, self.objects[LISTENER]);
                self.has_peer[stream] = true;
                0
            }
            Act::Accept { stream } => {
                let (flags, none) =
                    (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, std::ptr::null_mut());
                let listener = self.objects[LISTENER];
                let new =
                    result(unsafe { libc::accept4(listener, none, none.cast(), flags) }.into());
                if new >= 0 {
                    self.objects[FIRST_STREAM + stream] = new as c_int;
                }
                new.min(0)
            }
            Act::Send { stream, count } => self.send(stream, count),
            Act::Receive { stream, count } => self.receive(stream, count),
            Act::PeerSends { stream, count } => self.kernel.peer_sends(stream, &vec![0; count]),
            Act::PeerReceives { stream, count } => {
                self.kernel.peer_receives(stream, &mut vec![0; count])
            }
            Act::Fill { stream } => loop {
                let sent = self.send(stream, 16 << 10);
                if sent < 0 {
                    self.kernel.settle();
                    // What the peer's kernel has taken makes room once more.
                    let again = self.send(stream, 16 << 10);
                    if again < 0 {
                        self.is_full[stream] = true;
                        // Room that came and went on the way may have been an event, or not.
                        (0..EPOLLS)
                            .rev()
                            .for_each(|epoll| drop(wait(self.objects[epoll], OBJECTS)));
                        break again;
                    }
                }
            },
            Act::Drain { stream } => loop {
                let got = self.kernel.peer_receives(stream, &mut [0; 32 << 10]);
                if got <= 0 {
                    self.kernel.settle();
                    let mut left: c_int = 0;
                    unsafe { libc::ioctl(self.stream(stream), libc::TIOCOUTQ, &mut left) };
                    let (unread, state) = self.kernel.look_at_peer(stream);
                    if (left == 0 && unread == 0) || got == 0 || state == 7 {
                        self.is_full[stream] = false;
                        break 0;
                    }
                }
            },
            Act::Shut { stream } => {
                result(unsafe { libc::shutdown(self.stream(stream), libc::SHUT_WR) }.into())
            }
            Act::PeerShuts { stream } => self.kernel.peer_shuts(stream),
            Act::Close { stream } => {
                let fd = std::mem::replace(&mut self.objects[FIRST_STREAM + stream], -1);
                self.is_full[stream] = false;
                let closed = result(unsafe { libc::close(fd) }.into());
                if std::mem::take(&mut self.has_peer[stream]) {
                    self.kernel.settle();
                    self.kernel.peer_closes(stream, false);
                }
                closed
            }
            Act::PeerCloses { stream, resets } => {
                self.kernel.peer_closes(stream, resets);
                self.has_peer[stream] = false;
                0
            }
        };
        (number, Vec::new())
    }

    /// What can be seen of each connection, on both sides, without changing anything.
    fn look(&mut self) -> [[(i32, u8); 2]; STREAMS] {
        std::array::from_fn(|stream| {
            let (fd, full) = (self.stream(stream), self.is_full[stream]);
            let mut server = (0, 0);
            if fd >= 0 {
                let mut len = 1;
                let state = std::ptr::from_mut(&mut server.1).cast();
                // SAFETY: the places are valid.
                unsafe {
                    libc::ioctl(fd, libc::FIONREAD, &mut server.0);
                    libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, state, &mut len);
                }
            }
            let has_peer = self.has_peer[stream];
            let peer = if has_peer { self.kernel.look_at_peer(stream) } else { (0, 0) };
            // LAST_ACK and CLOSING are one in the model. How much fits into full buffers differs.
            let state = |state| if state == 11 { 9 } else { state };
            let [server, peer] = [server, peer].map(|(unread, of)| (unread, state(of)));
            [server, if full { (0, 0) } else { peer }]
        })
    }
}

impl Bench<Model> {
    fn is_read(&self, stream: usize, side: u8) -> bool {
        with(|w| w.side(self.kernel.links[stream], side).input.is_empty())
    }
}

fn draw(random: &mut Random, bench: &Bench<Model>) -> Act {
    let stream = random.below(STREAMS as u64) as usize;
    let is_open = bench.stream(stream) >= 0;
    let has_peer = bench.has_peer[stream];
    let epoll = random.below(EPOLLS as u64) as usize;
    let count = random.one_of(&[1, 10, 3_000]);
    match random.below(30) {
        0..9 => Act::Wait { epoll, max: random.one_of(&[1, 2, 3, 8, 8]) },
        9..15 => {
            let op =
                random.one_of(&[libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD]);
            let op = if random.once_in(12) { libc::EPOLL_CTL_DEL } else { op };
            let all = [libc::EPOLLIN, libc::EPOLLOUT, libc::EPOLLRDHUP, libc::EPOLLPRI];
            let wanted = all.map(|bit| if random.once_in(2) { bit } else { 0 }).iter().sum::<i32>();
            let edge = if random.once_in(2) { libc::EPOLLET } else { 0 };
            // The second epoll may be in the first one, and in nothing of its own.
            let first = if epoll == 0 { 1 } else { EPOLLS };
            let object = first + random.below((OBJECTS - first) as u64) as usize;
            Act::Control { epoll, op, object, events: (wanted | edge) as u32 }
        }
        15 => Act::Poll { object: random.below(OBJECTS as u64) as usize },
        16 | 17 => Act::Signal { object: EPOLLS + random.below(COUNTERS as u64) as usize },
        18 => Act::Read { object: EPOLLS + random.below(COUNTERS as u64 + 1) as usize },
        19 => Act::Expire,
        _ if !is_open && !has_peer => Act::Connect { stream },
        _ if !is_open => Act::Accept { stream },
        20 if has_peer => Act::Send { stream, count },
        21 => Act::Receive { stream, count },
        22..25 if has_peer && !bench.is_full[stream] => Act::PeerSends { stream, count },
        25 if has_peer => match random.below(6) {
            0 => Act::Fill { stream },
            _ if bench.is_full[stream] => Act::Drain { stream },
            _ => Act::PeerReceives { stream, count },
        },
        26 if has_peer => Act::Drain { stream },
        // A FIN behind unread bytes takes 40 ms, and so it is rare.
        27 if has_peer && bench.is_read(stream, 1) || random.once_in(8) => Act::Shut { stream },
        28 if has_peer && (bench.is_read(stream, 0) || random.once_in(8)) => {
            Act::PeerShuts { stream }
        }
        29 if has_peer => match random.below(3) {
            0 => Act::Close { stream },
            of => Act::PeerCloses { stream, resets: of == 1 },
        },
        _ => Act::Receive { stream, count },
    }
}

/// What a script cannot do in the same way on both, because nothing says how much fits.
fn is_fair(act: Act, bench: &Bench<Model>) -> bool {
    match act {
        // Each connection is accepted for its own peer.
        Act::Connect { .. } => !(0..STREAMS).any(|s| bench.has_peer[s] && bench.stream(s) < 0),
        Act::Fill { stream } | Act::Drain { stream } => bench.stream(stream) >= 0,
        Act::Send { stream, .. } => !bench.is_full[stream],
        Act::Close { stream } | Act::Shut { stream } => !bench.is_full[stream],
        Act::PeerShuts { stream } | Act::PeerCloses { stream, .. } => !bench.is_full[stream],
        _ => true,
    }
}

/// Runs one script. Returns how many waits found events, or what was different.
fn run(seed: u64) -> Result<u64, String> {
    let mut random = Random::new(seed);
    let mut world = World::new(seed, Tells::Nothing);
    world.add_silent_client();
    world::begin(world);
    let mut model = Bench::new(Model { links: [0; STREAMS] });
    let mut real = world::without(|| Bench::new(Real::default()));
    let (mut story, mut events) = (Vec::new(), 0);
    let mut outcome = Ok(());
    for _ in 0..random.between(20, 80) {
        let act = draw(&mut random, &model);
        if !is_fair(act, &model) {
            continue;
        }
        let of_model = model.perform(act);
        model.kernel.settle();
        let state = model.look();
        let of_real = world::without(|| {
            let answer = real.perform(act);
            let begun = std::time::Instant::now();
            real.kernel.settle();
            while real.look() != state && begun.elapsed().as_secs() < 20 {
                real.objects[FIRST_STREAM..].iter().for_each(|fd| acknowledge(*fd));
                real.kernel.settle();
                // A FIN behind unread bytes is acknowledged after 40 ms.
                if begun.elapsed().as_millis() > 0 {
                    // SAFETY: there are no entries.
                    unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
                }
            }
            answer
        });
        let seen = real.look();
        events += u64::from(!of_model.1.is_empty());
        story.push(format!("{act:?}: {of_model:?}"));
        if of_model != of_real || seen != state {
            story.push(format!("    the kernel: {of_real:?}"));
            story.push(format!("    connections: {state:?}"));
            story.push(format!("    the kernel:  {seen:?}"));
            outcome = Err(story.join("\n"));
            break;
        }
    }
    let world = world::end();
    real.objects.iter().filter(|fd| **fd >= 0).for_each(|fd| {
        // SAFETY: they belong to this script.
        unsafe { libc::close(*fd) };
    });
    real.kernel.end();
    debug_assert!(world.now > SECOND);
    match (outcome, world.findings.first()) {
        (Err(text), _) => Err(text),
        (Ok(()), Some(finding)) => Err(finding.clone()),
        (Ok(()), None) => Ok(events),
    }
}

/// How many scripts run at a time: they mostly wait for the kernel.
const THREADS: u64 = 16;

/// Runs scripts; returns whether all were the same on both kernels.
pub fn compare(first: u64, scripts: u64) -> bool {
    crate::real::own_network();
    let begun = std::time::Instant::now();
    let (next, events, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let work = || loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= scripts || failed.load(Relaxed) {
            return;
        }
        let seed = first.wrapping_add(number);
        match run(seed) {
            Ok(found) => drop(events.fetch_add(found, Relaxed)),
            Err(text) => {
                if !failed.swap(true, Relaxed) {
                    println!("script {seed}:\n{text}");
                }
            }
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
    let (events, took) = (events.load(Relaxed), begun.elapsed().as_secs_f64());
    let failed = failed.load(Relaxed);
    let verdict = if failed { "the kernels differ" } else { "the same on both kernels" };
    println!("sim-epoll: seed {first}, {scripts} scripts, {events} waits with events: {verdict}");
    println!("sim-epoll: {took:.1} s");
    !failed
}
