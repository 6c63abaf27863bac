//! Handlers that many tests use; they work in both modes.

use super::{pattern, Gate, BULK};
use crate::api::{Error, Hooks, Server, Socket, Status};

/// Sends back whatever comes, and closes at the end of the stream.
pub fn echo(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    loop {
        match socket.recv(&mut buffer)? {
            0 => {
                socket.close();
                return Ok(());
            }
            n => socket.send(&buffer[..n])?,
        }
    }
}

/// Answers with far more than the kernel takes.
pub fn bulk(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    text(socket)?;
    socket.send(&pattern(BULK))
}

/// The same, and closes.
pub fn bulk_and_close(server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    bulk(server, socket)?;
    socket.close();
    Ok(())
}

/// The same where a client asks for "much", and an echo of anything else.
pub fn bulk_or_echo(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    match text(socket)?.as_str() {
        "much" => socket.send(&pattern(BULK)),
        other => socket.send(other.as_bytes()),
    }
}

/// A handler that sends its answer when the gate opens, and closes.
pub fn answer_behind(gate: &Gate) -> Hooks {
    let gate = gate.clone();
    Hooks::new(move |_, socket| {
        gate.wait();
        socket.send(b"answer")?;
        socket.close();
        Ok(())
    })
}

/// The text of one `recv`; empty at the end of the stream.
pub fn text(socket: &mut Socket<'_>) -> Result<String, Error> {
    let mut buffer = [0; 256];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// All that can be read now, and whether the stream has ended.
pub fn available(socket: &mut Socket<'_>) -> Result<(Vec<u8>, bool), Error> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match socket.recv(&mut buffer) {
            Ok(0) => return Ok((all, true)),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(error) if error.status() == Status::WouldBlock => return Ok((all, false)),
            Err(error) => return Err(error),
        }
    }
}

/// A result as a test compares it.
pub fn status<T>(result: Result<T, Error>) -> Status {
    match result {
        Ok(_) => Status::Ok,
        Err(error) => error.status(),
    }
}
