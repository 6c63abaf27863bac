//! The real kernel's side of `same.rs`: clients over the loopback.

use std::ffi::c_int;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::same::{acknowledge, Kernel, STREAMS};

#[derive(Default)]
pub struct Real {
    peers: [Option<TcpStream>; STREAMS],
}

fn code<T>(result: std::io::Result<T>, number: impl Fn(T) -> i64) -> i64 {
    match result {
        Ok(value) => number(value),
        Err(error) => -i64::from(error.raw_os_error().unwrap_or(0)),
    }
}

impl Real {
    fn peer(&mut self, stream: usize) -> &mut TcpStream {
        self.peers[stream].as_mut().expect("the script has a peer")
    }

    pub fn end(&mut self) {
        for peer in &mut self.peers {
            if let Some(peer) = peer.take() {
                close(peer, true);
            }
        }
    }
}

fn close(peer: TcpStream, resets: bool) {
    let linger = libc::linger { l_onoff: resets.into(), l_linger: 0 };
    let len = size_of::<libc::linger>() as u32;
    let value = std::ptr::from_ref(&linger).cast();
    // SAFETY: the value is valid.
    unsafe { libc::setsockopt(peer.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, len) };
    drop(peer);
}

/// Gives this thread, and those that it makes, a network of their own, where that is allowed: what
/// others leave in TIME_WAIT can fill the kernel's table, and a FIN then is answered by a reset.
pub fn own_network() {
    // SAFETY: the request is valid, and is zero but for its first fields.
    unsafe {
        if libc::unshare(libc::CLONE_NEWNET) != 0 {
            return;
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        let up = libc::ioctl(socket, libc::SIOCSIFFLAGS, &mut request);
        assert_eq!(up, 0, "the loopback of a network of its own");
        libc::close(socket);
    }
}

impl Kernel for Real {
    fn is_model(&self) -> bool {
        false
    }

    fn connect(&mut self, stream: usize, listener: c_int) {
        // SAFETY: the descriptor is open, and stays the script's.
        let listener = unsafe { std::net::TcpListener::from_raw_fd(listener) };
        let address: SocketAddr = listener.local_addr().expect("the listener's address");
        std::mem::forget(listener);
        let peer = TcpStream::connect(address).expect("a connection over the loopback");
        peer.set_nonblocking(true).expect("O_NONBLOCK");
        peer.set_nodelay(true).expect("TCP_NODELAY");
        self.peers[stream] = Some(peer);
    }

    fn peer_sends(&mut self, stream: usize, bytes: &[u8]) -> i64 {
        code(self.peer(stream).write(bytes), |n| n as i64)
    }

    fn peer_receives(&mut self, stream: usize, buffer: &mut [u8]) -> i64 {
        code(self.peer(stream).read(buffer), |n| n as i64)
    }

    fn peer_shuts(&mut self, stream: usize) -> i64 {
        code(self.peer(stream).shutdown(Shutdown::Write), |()| 0)
    }

    fn peer_closes(&mut self, stream: usize, resets: bool) {
        if let Some(peer) = self.peers[stream].take() {
            close(peer, resets);
        }
    }

    fn look_at_peer(&mut self, stream: usize) -> (i32, u8) {
        let fd = self.peer(stream).as_raw_fd();
        let (mut unread, mut state, mut len) = (0, 0_u8, 1);
        let place = std::ptr::from_mut(&mut state).cast();
        // SAFETY: the places are valid.
        unsafe {
            libc::ioctl(fd, libc::FIONREAD, &mut unread);
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &mut len);
        }
        (unread, state)
    }

    fn settle(&mut self) {
        self.peers.iter().flatten().for_each(|peer| acknowledge(peer.as_raw_fd()));
        std::thread::yield_now();
    }
}
