//! chat: what one client writes, everybody reads.
//!
//!   chat [-t THREADS] [-i IDLE_SECONDS] [SERVICE]
//!
//! The first line a client sends is its nick. It shows:
//!   - data kept for each connection (`Member`), dropped by the library;
//!   - the list of members under the program's own mutex, taken in `on_open` and `on_close` and
//!     held while a message is broadcast: no API call ever runs a callback, so that cannot deadlock;
//!   - the idle timeout, and `on_close` with its reason.

mod common;

use net_server::{CloseReason, Config, ConnId, Error, Handler, Server, Socket};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

const MAX_LINE: usize = 511;

#[derive(Default)]
struct Chat {
    room: Mutex<Vec<ConnId>>,
}

#[derive(Default)]
struct Member {
    nick: Option<String>,
    input: Vec<u8>,
}

impl Chat {
    /// To everybody in the room. One copy of the text is shared by all who get it.
    fn publish(&self, server: &Server, text: &str) -> Result<(), Error> {
        let room = self.room.lock().unwrap();
        server.broadcast(&room, text.as_bytes()).map(drop)
    }
}

impl Member {
    /// Takes the first line out of the input; one that is too long is taken as it is.
    fn next_line(&mut self) -> Option<String> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        let line: Vec<u8> = match end {
            Some(end) => self.input.drain(..=end).collect(),
            None if self.input.len() >= MAX_LINE => self.input.drain(..).collect(),
            None => return None,
        };
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// What the room is told about this line, if anything.
    fn say(&mut self, line: String) -> Option<String> {
        match &self.nick {
            Some(nick) => Some(format!("{nick}: {line}\n")),
            None if line.is_empty() => None,
            None => {
                let nick: String = line.chars().take(31).collect();
                Some(format!("* {} is here\n", self.nick.insert(nick)))
            }
        }
    }
}

impl Handler for Chat {
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let mut buffer = [0; MAX_LINE];
        loop {
            let n = socket.recv(&mut buffer)?;
            if n == 0 {
                socket.close();
                return Ok(());
            }
            let Some(member) = socket.user_data_mut::<Member>() else {
                return Err("no such member".into());
            };
            member.input.extend_from_slice(&buffer[..n]);
            while let Some(line) = member.next_line() {
                if let Some(text) = member.say(line) {
                    self.publish(server, &text)?;
                }
            }
        }
    }

    fn on_start(&self, server: &Server) -> Result<(), Error> {
        common::say_listening("chat", server);
        Ok(())
    }

    fn on_open(&self, _server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        socket.set_user_data(Member::default());
        self.room.lock().unwrap().push(socket.id());
        socket.send(b"* your nick?\n")
    }

    fn on_close(&self, server: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        self.room.lock().unwrap().retain(|&id| id != socket.id());
        let nick = socket.take_user_data::<Member>().and_then(|member| member.nick);
        if let Some(nick) = nick {
            let reason = format!("{reason:?}").to_lowercase();
            // The server may be stopping: then there is nobody left to tell.
            let _ = self.publish(server, &format!("* {nick} left ({reason})\n"));
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<(), Error> {
    // A member who does not read its messages loses them once a megabyte waits for it.
    let mut config = Config::new()
        .non_blocking(true)
        .send_limit(1024 * 1024)
        .idle_timeout(Duration::from_secs(600));
    let mut service = "5000".to_owned();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse::<u32>().ok());
        match arg.as_str() {
            "-t" => config.max_thread = number().ok_or("-t: not a number")?,
            "-i" => {
                let seconds = number().ok_or("-i: not a number")?;
                config.idle_timeout = Some(Duration::from_secs(seconds.into()));
            }
            _ => service = arg,
        }
    }
    let server = Server::with_config(&service, Chat::default(), config)?;
    common::serve(&server)
}

fn main() -> ExitCode {
    common::exit("chat", run(std::env::args().skip(1)))
}
