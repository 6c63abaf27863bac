//! The outbound queue against a model: a stream of bytes, each of which says
//! where it belongs.

use super::{Chunk, OutBuf, CHUNK, FIRST_CHUNK, PIECE, SHARED};
use crate::fuzzing::Input;
use std::cell::OnceCell;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const SIZES: [usize; 16] = [
    0,
    1,
    2,
    63,
    FIRST_CHUNK - 1,
    FIRST_CHUNK,
    FIRST_CHUNK + 1,
    1000,
    CHUNK - 1,
    CHUNK,
    CHUNK + 1,
    SHARED - 1,
    SHARED,
    SHARED + 1,
    PIECE,
    PIECE + 1,
];
/// The most bytes of one input, and of one that begins with 255.
const FEW: usize = 20_000;
const MOST: usize = 600_000;

thread_local! {
    static PAIR: OnceCell<(UnixStream, UnixStream)> = const { OnceCell::new() };
    static BYTES: Vec<u8> = (0..MOST).map(|i| (i % 251 + i / 251 % 7) as u8).collect();
}

/// Judges one input.
pub fn target(data: &[u8]) {
    PAIR.with(|pair| {
        let (ours, theirs) = pair.get_or_init(|| {
            let pair = UnixStream::pair().unwrap();
            // Full soon, so that writes are short.
            socket2::SockRef::from(&pair.0).set_send_buffer_size(16 << 10).unwrap();
            pair.1.set_nonblocking(true).unwrap();
            pair
        });
        let most = if data.first() == Some(&255) { MOST } else { FEW };
        BYTES.with(|bytes| run(Input(data), ours, theirs, &bytes[..most]));
    });
}

fn run(mut input: Input<'_>, ours: &UnixStream, theirs: &UnixStream, bytes: &[u8]) {
    let (mut queue, mut sent, mut left, mut got) = (OutBuf::default(), 0, 0, 0);
    let mut buffer = vec![0; 8 << 10];
    let mut read = |got: &mut usize, most: usize| {
        let most = most.min(buffer.len());
        match { theirs }.read(&mut buffer[..most]) {
            Ok(n) => {
                assert!(buffer[..n] == bytes[*got..*got + n], "wrong bytes from {got} on");
                *got += n;
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    };
    while !input.is_empty() {
        let order = input.byte();
        let size = match order >> 4 {
            15 => input.number() % 20_000,
            size => SIZES[usize::from(size)],
        };
        let piece = &bytes[sent..bytes.len().min(sent + size)];
        match order & 15 {
            0..=4 => {
                queue.push(piece);
                sent += piece.len();
            }
            5..=7 => {
                OutBuf::shared(piece).iter().for_each(|part| queue.push_shared(part));
                sent += piece.len();
            }
            8 | 9 => {
                let mut other = OutBuf::default();
                for part in piece.chunks(1 + piece.len() / 3) {
                    match order & 15 {
                        8 => other.push(part),
                        _ => other.push_shared(&Arc::from(part)),
                    }
                }
                assert_eq!(other.pieces().map(<[u8]>::len).sum::<usize>(), piece.len());
                queue.append(other);
                sent += piece.len();
            }
            10..=12 => read(&mut got, size),
            _ => left += write(&mut queue, ours),
        }
        assert_eq!(queue.len(), sent - left);
        check_memory(&queue);
    }
    while got < sent {
        left += write(&mut queue, ours);
        assert_eq!(queue.len(), sent - left);
        read(&mut got, usize::MAX);
    }
    assert!(queue.chunks.is_empty() && queue.head == 0);
}

fn write(queue: &mut OutBuf, fd: &UnixStream) -> usize {
    match queue.write_to(fd.as_fd()) {
        Ok(n) => n,
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::WouldBlock);
            0
        }
    }
}

/// Each chunk has bytes that have not left, and what is allocated beyond the
/// bytes is bounded.
fn check_memory(queue: &OutBuf) {
    let first = queue.chunks.front().map_or(1, |chunk| chunk.bytes().len());
    assert!(queue.head < first, "{} of {first} have left", queue.head);
    for chunk in &queue.chunks {
        if let Chunk::Own(bytes) = chunk {
            assert!(bytes.capacity() <= PIECE.max(bytes.len()), "{}", bytes.capacity());
        }
    }
}
