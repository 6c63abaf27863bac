//! The outbound queue of a connection: bytes that the kernel has not
//! accepted yet.

#![forbid(unsafe_code)]

#[cfg(any(test, fuzzing))]
#[path = "fuzzing/outbuf.rs"]
pub(crate) mod fuzzing;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::sys::{self, SendFlags};

/// The most buffers that one sendmsg(2) gets.
const BATCH: usize = 16;
/// The smallest capacity of a chunk, so that many small sends share one. The
/// first chunks of a queue are smaller: most queues hold one small message.
const CHUNK: usize = 4096;
const FIRST_CHUNK: usize = 256;
/// The largest size of a chunk. Its memory is freed when all of it has left.
const PIECE: usize = 256 << 10;
/// The smallest number of bytes of which the receivers of a broadcast share one
/// copy. The chunk before it may stay half empty, and that waste must not
/// count.
pub(crate) const SHARED: usize = 16 << 10;

enum Chunk {
    Own(Vec<u8>),
    /// One copy for all receivers of a broadcast.
    Shared(Arc<[u8]>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(bytes) => bytes,
            Chunk::Shared(bytes) => bytes,
        }
    }
}

/// A look at how many bytes the peer has not acknowledged.
#[derive(Clone, Copy)]
pub(crate) struct AckLook {
    pub unacknowledged: usize,
    /// When this count was first seen.
    pub since: u64,
    pub at: u64,
}

#[derive(Default)]
pub(crate) struct OutBuf {
    chunks: VecDeque<Chunk>,
    /// How many bytes of the first chunk are written already.
    head: usize,
    len: usize,
    /// Bytes that the kernel was not asked to take yet, behind all others, and
    /// before TLS (`conn/gather.rs`).
    pub gathered: Vec<u8>,
    /// How many sends they came by.
    pub gathered_sends: usize,
    /// The last of them came behind as much of a file as a turn may send.
    pub ends_turn: bool,
    /// When bytes were last written, or when the queue began: for
    /// `write_timeout`.
    pub progress_at: u64,
    /// `on_drain` has been asked to report what is queued.
    pub is_reported: bool,
    /// The last look at what the peer has acknowledged.
    pub ack_look: Option<AckLook>,
}

impl OutBuf {
    /// Returns the number of bytes, without the gathered ones.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes. They fill the last chunk first, so that a queue of many
    /// small sends holds little more memory than its bytes need.
    pub fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        let mut rest = bytes;
        if let Some(Chunk::Own(last)) = self.chunks.back_mut() {
            let room = (last.capacity() - last.len()).min(rest.len());
            last.extend_from_slice(&rest[..room]);
            rest = &rest[room..];
        }
        let least = self.len.clamp(FIRST_CHUNK, CHUNK);
        for rest in rest.chunks(PIECE) {
            let mut chunk = Vec::with_capacity(rest.len().max(least));
            chunk.extend_from_slice(rest);
            self.chunks.push_back(Chunk::Own(chunk));
        }
    }

    /// Appends bytes that other queues share. A few bytes are copied: that is
    /// cheaper.
    pub fn push_shared(&mut self, bytes: &Arc<[u8]>) {
        if bytes.len() < SHARED {
            self.push(bytes);
        } else {
            self.len += bytes.len();
            self.chunks.push_back(Chunk::Shared(bytes.clone()));
        }
    }

    /// Copies bytes for many queues, as [`OutBuf::push_shared`] takes them.
    pub fn shared(bytes: &[u8]) -> Vec<Arc<[u8]>> {
        bytes.chunks(PIECE).map(Arc::from).collect()
    }

    /// Appends all of another queue, from which nothing was written yet.
    pub fn append(&mut self, other: OutBuf) {
        debug_assert!(other.head == 0);
        if self.chunks.is_empty() {
            self.chunks = other.chunks;
            self.len = other.len;
            return;
        }
        for chunk in other.chunks {
            match chunk {
                Chunk::Own(bytes) if bytes.len() < SHARED => self.push(&bytes),
                chunk => {
                    self.len += chunk.bytes().len();
                    self.chunks.push_back(chunk);
                }
            }
        }
    }

    /// The bytes, piece by piece, of a queue from which nothing was written
    /// yet.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.chunks.iter().map(Chunk::bytes)
    }

    /// Writes as many bytes as the kernel takes now and returns their number.
    /// Returns an error only if nothing could be written.
    pub fn write_to(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let mut written = 0;
        while self.len > 0 {
            let mut batch = [IoSlice::new(&[]); BATCH];
            let mut count = 0;
            let mut offered = 0;
            for (slice, chunk) in batch.iter_mut().zip(&self.chunks) {
                let skip = if count == 0 { self.head } else { 0 };
                *slice = IoSlice::new(&chunk.bytes()[skip..]);
                offered += slice.len();
                count += 1;
            }
            match sys::sendv(fd, &batch[..count], SendFlags::DONTWAIT) {
                Ok(n) => {
                    self.consume(n);
                    written += n;
                    if n < offered {
                        break;
                    }
                }
                Err(_) if written > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(written)
    }

    fn consume(&mut self, mut n: usize) {
        self.len -= n;
        while let Some(first) = self.chunks.front() {
            let left = first.bytes().len() - self.head;
            if n < left {
                self.head += n;
                return;
            }
            n -= left;
            self.head = 0;
            self.chunks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_leave_in_order_as_the_peer_reads() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut queue = OutBuf::default();
        let mut expected = Vec::new();
        for i in 0..200u32 {
            let piece = vec![i as u8; 1 + (i as usize * 370) % 40_000];
            expected.extend_from_slice(&piece);
            match i % 3 {
                0 => queue.push_shared(&piece.into()),
                _ => queue.push(&piece),
            }
        }
        assert_eq!(queue.len(), expected.len());
        let mut got = Vec::new();
        let mut buffer = [0; 7000];
        while queue.len() > 0 {
            match queue.write_to(ours.as_fd()) {
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
            let n = theirs.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..n]);
        }
        drop(ours);
        theirs.read_to_end(&mut got).unwrap();
        assert!(got == expected);
    }

    /// The bound counts bytes, not sends: a queue holds at most twice its
    /// bytes, in whatever pieces they came.
    #[test]
    fn small_sends_share_chunks() {
        for sizes in [&[1][..], &[CHUNK - 1], &[CHUNK / 2 + 1], &[1, CHUNK + 1], &[1, SHARED]] {
            let mut queue = OutBuf::default();
            let pieces: Vec<Arc<[u8]>> = sizes.iter().map(|n| vec![7; *n].into()).collect();
            for piece in pieces.iter().cycle().take(20_000) {
                queue.push_shared(piece);
            }
            let held = |chunk: &Chunk| match chunk {
                Chunk::Own(bytes) => bytes.capacity(),
                Chunk::Shared(bytes) => bytes.len(),
            };
            let bytes: usize = queue.chunks.iter().map(held).sum();
            let entries = queue.chunks.capacity() * size_of::<Chunk>();
            assert!(bytes + entries <= 2 * queue.len() + CHUNK, "{sizes:?}");
        }
    }

    #[test]
    fn a_queue_goes_behind_another() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut queue, mut later) = (OutBuf::default(), OutBuf::default());
        queue.push(b"hel");
        later.push(b"lo");
        later.push(b"!");
        queue.append(later);
        assert_eq!((queue.len(), queue.write_to(ours.as_fd()).unwrap()), (6, 6));
        let mut got = [0; 6];
        theirs.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello!");
    }
}
