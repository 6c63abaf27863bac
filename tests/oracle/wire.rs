//! The bytes of both directions: every byte says by itself whether it stands where it belongs.
//!
//! A client's bytes are a pattern of the connection's key and the place in the stream. A server
//! sends frames: each names the thread that sent it and its number among the frames of that thread.
//! Only a frame's first byte has the highest bit, so that a reader finds the next frame after one
//! that a timed-out `send` left unfinished.

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Data = 0,
    /// The last frame in the clear: what follows it is TLS.
    Go = 1,
    /// One copy for many connections: of no connection's key.
    Shared = 2,
}

/// A thread that sends, and the number of a frame among its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    pub sender: u16,
    pub number: u32,
}

pub const HEADER: usize = 12;
/// The first frame of each thread of a process.
const FIRST: u8 = 0x80;

/// The byte at `place` of what a client with this key sends.
pub fn client_byte(key: u16, place: u64) -> u8 {
    (u64::from(key) * 131 + place * 7 + (place >> 8) * 13 + (place >> 16) * 29) as u8
}

pub fn client_bytes(key: u16, from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|place| client_byte(key, place)).collect()
}

fn body_byte(key: u16, name: Name, place: usize) -> u8 {
    let number = name.number as usize;
    let sum = usize::from(key) * 7 + usize::from(name.sender) * 3 + number * 5 + place * 11;
    (sum + (place >> 7) * 17) as u8 & 0x7f
}

/// A frame with a body of `len` bytes.
pub fn frame(kind: Kind, key: u16, name: Name, len: usize) -> Vec<u8> {
    let key = if kind == Kind::Shared { 0 } else { key };
    let mut bytes = Vec::with_capacity(HEADER + len);
    bytes.push(FIRST | kind as u8);
    let mut put = |value: usize, digits: usize| {
        bytes.extend((0..digits).map(|digit| (value >> (7 * digit)) as u8 & 0x7f));
    };
    put(usize::from(key), 2);
    put(usize::from(name.sender), 2);
    put(name.number as usize, 4);
    put(len, 3);
    bytes.extend((0..len).map(|place| body_byte(key, name, place)));
    bytes
}

/// A frame as it was received.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    pub name: Name,
    pub whole: bool,
}

/// Reads frames, however they are cut into pieces.
#[derive(Default)]
pub struct Reader {
    key: u16,
    header: Vec<u8>,
    frame: Option<Open>,
    pub received: Vec<Received>,
    pub bytes: u64,
}

#[derive(Clone, Copy)]
struct Open {
    name: Name,
    kind: u8,
    key: u16,
    len: usize,
    have: usize,
}

impl Reader {
    pub fn new(key: u16) -> Reader {
        Reader { key, ..Reader::default() }
    }

    /// Takes bytes; how many of them, where the frame that ends the clear text is among them.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        for (i, &byte) in bytes.iter().enumerate() {
            self.bytes += 1;
            if self.byte(byte)? {
                return Ok(Some(i + 1));
            }
        }
        Ok(None)
    }

    /// Takes a byte; whether it ends the frame that ends the clear text.
    fn byte(&mut self, byte: u8) -> Result<bool, String> {
        if byte >= FIRST {
            self.unfinished();
            self.header.push(byte);
            return Ok(false);
        }
        if let Some(open) = &mut self.frame {
            let expected = body_byte(open.key, open.name, open.have);
            if byte != expected {
                let (at, place, name) = (self.bytes, open.have, open.name);
                return Err(format!(
                    "byte {at} is {byte:#x} and not {expected:#x}, at {place} of {name:?}"
                ));
            }
            open.have += 1;
        } else if self.header.is_empty() {
            return Err(format!("byte {} is {byte:#x} and begins no frame", self.bytes));
        } else {
            self.header.push(byte);
            if self.header.len() < HEADER {
                return Ok(false);
            }
            self.open()?;
        }
        self.finished()
    }

    fn open(&mut self) -> Result<(), String> {
        let number = |from: usize, digits: usize| {
            let digits = self.header[from..from + digits].iter().rev();
            digits.fold(0, |sum, &digit| sum << 7 | usize::from(digit))
        };
        let name = Name { sender: number(3, 2) as u16, number: number(5, 4) as u32 };
        let (kind, key) = (self.header[0] & 0x7f, number(1, 2) as u16);
        let expected = if kind == Kind::Shared as u8 { 0 } else { self.key };
        if key != expected || kind > Kind::Shared as u8 {
            return Err(format!("{name:?} is another connection's: key {key}, kind {kind}"));
        }
        self.frame = Some(Open { name, kind, key, len: number(9, 3), have: 0 });
        self.header.clear();
        Ok(())
    }

    fn finished(&mut self) -> Result<bool, String> {
        let Some(open) = self.frame.filter(|open| open.have == open.len) else { return Ok(false) };
        self.frame = None;
        self.received.push(Received { name: open.name, whole: true });
        Ok(open.kind == Kind::Go as u8)
    }

    /// Another frame begins in this one, or the stream ends in it.
    fn unfinished(&mut self) {
        if let Some(open) = self.frame.take() {
            self.received.push(Received { name: open.name, whole: false });
        }
        self.header.clear();
    }

    /// The stream has ended: all that was received.
    pub fn end(mut self) -> (Vec<Received>, u64) {
        self.unfinished();
        (self.received, self.bytes)
    }
}
