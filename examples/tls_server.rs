//! tls_server: the server that the end-to-end checks of TLS (tests/tls) talk to, in either mode.
//!
//!   tls_server [-n] [-t THREADS] [--mode echo|lines|http|smtp]
//!              [[--name NAME] --cert FILE --key FILE]... [--client-ca FILE [--client-optional]]
//!              [--alpn A,B] [--min 1.3] [--no-tickets | --ticket-keys HEX] [--cache SESSIONS]
//!              [--buffer BYTES]
//!              [--SETTING NUMBER, a time in milliseconds]... [SERVICE]
//!
//! Everything that happens is a JSON object on a line of standard output. Commands come on standard
//! input, one a line: `stats`, `reload CERT KEY`, `keys HEX`,
//! `stop`; its end stops the server too.

use net_server::{
    CloseReason, Config, Error, Handler, OwnedSocket, Server, Socket, Status, TlsConfig, TlsInfo,
    TlsVersion,
};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::process::ExitCode;
use std::time::Duration;

const LONGEST_LINE: usize = 64 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

// -- JSON -------------------------------------------------------------------------------------

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out + "\""
}

fn or_null(text: Option<&str>) -> String {
    text.map_or("null".into(), quoted)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of such a text.
fn bytes(hex: &str) -> Result<Vec<u8>, Error> {
    let byte = |i| hex.get(i..i + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<_> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes.ok_or_else(|| "not bytes in hexadecimal".into())
}

fn say(event: &str, fields: &[(&str, String)]) {
    let mut line = format!("{{\"event\":{}", quoted(event));
    for (name, value) in fields {
        let _ = write!(line, ",\"{name}\":{value}");
    }
    let mut out = std::io::stdout().lock();
    // Whoever started it may have stopped listening.
    let _ = writeln!(out, "{line}}}").and_then(|()| out.flush());
}

fn info_json(info: Option<TlsInfo>) -> String {
    let Some(info) = info else { return "null".into() };
    let alpn = info.alpn.map(|name| String::from_utf8_lossy(&name).into_owned());
    let fields = [
        ("version", quoted(if info.version == TlsVersion::V1_3 { "1.3" } else { "1.2" })),
        ("cipher_suite", quoted(&info.cipher_suite)),
        ("alpn", or_null(alpn.as_deref())),
        ("server_name", or_null(info.server_name.as_deref())),
        ("resumed", info.resumed.to_string()),
        ("peer_certificate", or_null(info.peer_certificate.map(|der| hex(&der)).as_deref())),
        ("peer_subject", or_null(info.peer_subject.as_deref())),
    ];
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn stats_json(server: &Server) -> Vec<(&'static str, String)> {
    let stats = server.stats();
    let reasons: Vec<_> = (0..CloseReason::COUNT)
        .filter_map(|code| Some((CloseReason::from_code(code as i32)?.name(), stats.closed[code])))
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("\"{name}\":{count}"))
        .collect();
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |list| list.count());
    vec![
        ("accepted", stats.accepted.to_string()),
        ("attached", stats.attached.to_string()),
        ("refused", stats.refused.to_string()),
        ("open", stats.open.to_string()),
        ("waiting", stats.waiting.to_string()),
        ("detached", stats.detached.to_string()),
        ("closed", format!("{{{}}}", reasons.join(","))),
        ("closed_total", stats.closed_total().to_string()),
        ("handshakes", stats.handshakes.to_string()),
        ("handshake_failures", stats.handshake_failures.to_string()),
        ("handler_errors", stats.handler_errors.to_string()),
        ("accept_errors", stats.accept_errors.to_string()),
        ("bytes_in", stats.bytes_in.to_string()),
        ("bytes_out", stats.bytes_out.to_string()),
        ("descriptors", descriptors.to_string()),
    ]
}

// -- the handler ------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    /// What arrives goes back.
    Echo,
    /// Lines; some are commands.
    Lines,
    /// Enough HTTP for its clients.
    Http,
    /// Enough SMTP for STARTTLS.
    Smtp,
}

struct App {
    mode: Mode,
    buffer_size: usize,
    /// For STARTTLS.
    tls: TlsConfig,
}

/// What a connection's handler remembers between calls: an incomplete line.
#[derive(Default)]
struct Memory(Vec<u8>);

/// What follows a line.
enum Next {
    Line,
    Close,
    Detach,
}

impl App {
    fn line(&self, socket: &mut Socket<'_>, line: &str, rest: &mut Vec<u8>) -> Result<Next, Error> {
        match self.mode {
            Mode::Echo => {}
            Mode::Lines => return self.command(socket, line),
            Mode::Http => return http(socket, line),
            Mode::Smtp => return self.smtp(socket, line, rest),
        }
        Ok(Next::Line)
    }

    fn command(&self, socket: &mut Socket<'_>, line: &str) -> Result<Next, Error> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("info", _) => socket.send(format!("{}\n", info_json(socket.tls_info())).as_bytes())?,
            ("quit", _) => return Ok(Next::Close),
            ("big", size) => {
                let size = size.parse().map_err(|_| "big: not a number")?;
                socket.send(&vec![b'x'; size])?;
            }
            ("detach", _) => return Ok(Next::Detach),
            _ => socket.send(format!("{line}\n").as_bytes())?,
        }
        Ok(Next::Line)
    }

    fn smtp(&self, socket: &mut Socket<'_>, line: &str, rest: &mut Vec<u8>) -> Result<Next, Error> {
        let secure = socket.tls_info().is_some();
        say("smtp", &[("line", quoted(line)), ("secure", secure.to_string())]);
        match line.split(' ').next().unwrap_or("").to_ascii_uppercase().as_str() {
            "EHLO" if secure => socket.send(b"250 hello\r\n")?,
            "EHLO" => socket.send(b"250-hello\r\n250 STARTTLS\r\n")?,
            "STARTTLS" if !secure => {
                socket.send(b"220 go ahead\r\n")?;
                let ahead = std::mem::take(rest);
                socket.starttls(&self.tls, &ahead)?;
            }
            "INFO" => {
                socket.send(format!("250 {}\r\n", info_json(socket.tls_info())).as_bytes())?;
            }
            "QUIT" => {
                socket.send(b"221 bye\r\n")?;
                return Ok(Next::Close);
            }
            _ => socket.send(b"500 what?\r\n")?,
        }
        Ok(Next::Line)
    }

    /// Takes the lines that are complete.
    fn lines(&self, socket: &mut Socket<'_>, memory: &mut Vec<u8>) -> Result<Next, Error> {
        while let Some(end) = memory.iter().position(|&byte| byte == b'\n') {
            let mut rest = memory.split_off(end + 1);
            let line = String::from_utf8_lossy(memory).trim_end().to_owned();
            let next = self.line(socket, &line, &mut rest);
            *memory = rest;
            match next? {
                Next::Line => {}
                other => return Ok(other),
            }
        }
        if memory.len() > LONGEST_LINE {
            return Err(Error::raise(-1, "a line without end"));
        }
        Ok(Next::Line)
    }

    /// Serves until the client is done, or until there is nothing to be read now.
    fn serve(&self, socket: &mut Socket<'_>, memory: &mut Vec<u8>) -> Result<Next, Error> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(self.buffer_size, 0);
            loop {
                let n = socket.recv(buffer)?;
                if n == 0 {
                    say("end", &[("id", socket.id().get().to_string())]);
                    return Ok(Next::Close);
                }
                if self.mode == Mode::Echo {
                    socket.send(&buffer[..n])?;
                    continue;
                }
                memory.extend_from_slice(&buffer[..n]);
                match self.lines(socket, memory)? {
                    Next::Line => {}
                    other => return Ok(other),
                }
            }
        })
    }
}

fn http(socket: &mut Socket<'_>, line: &str) -> Result<Next, Error> {
    // The request is one line as far as this goes; headers are passed over.
    let mut words = line.split(' ');
    let (Some("GET" | "HEAD" | "POST"), Some(path), Some(version)) =
        (words.next(), words.next(), words.next())
    else {
        return Ok(Next::Line);
    };
    let size = path.strip_prefix("/bytes/").and_then(|n| n.parse().ok());
    let body = match size {
        Some(size) => vec![b'x'; size],
        None => format!("{}\n", info_json(socket.tls_info())).into_bytes(),
    };
    let kept = version == "HTTP/1.1" && path != "/close";
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Strict-Transport-Security: max-age=31536000\r\nConnection: {}\r\n\r\n",
        body.len(),
        if kept { "keep-alive" } else { "close" }
    );
    let body = if line.starts_with("HEAD") { &[][..] } else { &body[..] };
    socket.sendv(&[std::io::IoSlice::new(head.as_bytes()), std::io::IoSlice::new(body)])?;
    Ok(if kept { Next::Line } else { Next::Close })
}

/// On a thread of the program's own: a line back and forth until `attach` or the end.
fn detached(server: &Server, mut owned: OwnedSocket) -> Result<(), Error> {
    let mut socket = owned.socket();
    let Memory(mut memory) = socket.take_user_data().unwrap_or_default();
    socket.send(format!("detached {}\n", info_json(socket.tls_info())).as_bytes())?;
    loop {
        if !memory.contains(&b'\n') {
            while memory.last() != Some(&b'\n') {
                let mut byte = [0];
                if socket.recv(&mut byte)? == 0 {
                    return Ok(());
                }
                memory.extend(byte);
            }
        }
        let end = memory.iter().position(|&byte| byte == b'\n').unwrap_or(0);
        let rest = memory.split_off(end + 1);
        let mut line = std::mem::replace(&mut memory, rest);
        if line == b"attach\n" {
            break;
        }
        line.make_ascii_uppercase();
        socket.send(&line)?;
    }
    socket.set_user_data(Memory(memory));
    socket.send(b"attaching\n")?;
    server.attach(owned).map(drop).map_err(Error::from)
}

impl Handler for App {
    fn handle(&self, server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        let Memory(mut memory) = socket.take_user_data().unwrap_or_default();
        let next = self.serve(socket, &mut memory);
        socket.set_user_data(Memory(memory));
        match next? {
            Next::Line => {}
            Next::Close => socket.close(),
            Next::Detach => {
                let (owned, server) = (server.detach(socket)?, server.clone());
                std::thread::spawn(move || {
                    if let Err(error) = detached(&server, owned) {
                        say("detached", &[("status", quoted(error.status().name()))]);
                    }
                });
            }
        }
        Ok(())
    }

    fn on_start(&self, server: &Server) -> Result<(), Error> {
        println!("listening on {}", server.address());
        Ok(())
    }

    fn on_open(&self, _server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
        match self.mode {
            Mode::Smtp => socket.send(b"220 ready\r\n"),
            _ => Ok(()),
        }
    }

    fn on_close(&self, _server: &Server, socket: &mut Socket<'_>, reason: CloseReason) {
        let fields = [("id", socket.id().get().to_string()), ("reason", quoted(reason.name()))];
        say("close", &fields);
    }

    fn on_exception(
        &self,
        _server: &Server,
        socket: Option<&mut Socket<'_>>,
        error: &Error,
    ) -> Result<(), Error> {
        let id = socket.as_ref().map_or(0, |socket| socket.id().get());
        let fields = [
            ("id", id.to_string()),
            ("status", quoted(error.status().name())),
            ("message", quoted(error.message())),
        ];
        say("exception", &fields);
        if let Some(socket) = socket {
            socket.close();
        }
        Ok(())
    }
}

// -- the program ------------------------------------------------------------------------------

struct Options {
    service: String,
    config: Config,
    app: App,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, Error> {
    let mut config = Config::new();
    let (tls, mut mode, mut service) = (TlsConfig::new(), Mode::Echo, "127.0.0.1:0".to_owned());
    let mut buffer_size = 64 << 10;
    let (mut name, mut cert, mut client_ca, mut required) = (None, String::new(), None, true);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg}: what?"));
        let number = |text: String| text.parse::<u64>().map_err(|_| "not a number");
        match arg.as_str() {
            "-n" => config.non_blocking = true,
            "-t" => config.max_thread = number(value()?)? as u32,
            "--mode" => {
                mode = match value()?.as_str() {
                    "echo" => Mode::Echo,
                    "lines" => Mode::Lines,
                    "http" => Mode::Http,
                    "smtp" => Mode::Smtp,
                    _ => return Err("--mode: echo, lines, http or smtp".into()),
                }
            }
            "--name" => name = Some(value()?),
            "--cert" => cert = value()?,
            "--key" => tls.add_cert_file(name.take().as_deref(), &cert, value()?)?,
            "--client-ca" => client_ca = Some(value()?),
            "--client-optional" => required = false,
            "--alpn" => {
                let list = value()?;
                tls.set_alpn(&list.split(',').map(str::as_bytes).collect::<Vec<_>>())?;
            }
            "--min" => {
                let version = if value()? == "1.3" { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
                tls.set_min_version(version)?;
            }
            "--ticket-keys" => tls.set_ticket_keys(&bytes(&value()?)?)?,
            "--no-tickets" => tls.set_tickets(false)?,
            "--cache" => tls.set_session_cache(number(value()?)? as usize)?,
            "--buffer" => buffer_size = number(value()?)?.max(1) as usize,
            "--max-handshakes" => config.max_handshakes = number(value()?)? as u32,
            "--max-waiting" => config.max_waiting = number(value()?)? as u32,
            setting if setting.starts_with("--") => {
                let time = Duration::from_millis(number(value()?)?);
                match setting {
                    "--handshake-timeout" => config.handshake_timeout = time,
                    "--io-timeout" => config.io_timeout = Some(time),
                    "--idle-timeout" => config.idle_timeout = Some(time),
                    "--linger-timeout" => config.linger_timeout = time,
                    "--drain-timeout" => config.drain_timeout = time,
                    "--retry-interval" => config.retry_interval = time,
                    _ => return Err(format!("{setting}: no such option").into()),
                }
            }
            _ => service = arg,
        }
    }
    if let Some(path) = client_ca {
        tls.set_client_ca_file(path, required)?;
    }
    if mode != Mode::Smtp {
        config.tls = Some(tls.clone());
    }
    Ok(Options { service, config, app: App { mode, buffer_size, tls } })
}

fn reload(server: &Server, words: &[&str]) -> Result<(), Error> {
    let [cert, key] = words else { return Err("reload CERT KEY".into()) };
    let tls = TlsConfig::new();
    tls.add_cert_file(None, cert, key)?;
    server.reload_tls(&tls)
}

fn say_result(event: &str, result: Result<(), Error>) {
    let error = result.err();
    let status = error.as_ref().map_or(Status::Ok, Error::status);
    let message = error.as_ref().map(Error::message);
    say(event, &[("status", quoted(status.name())), ("message", or_null(message))]);
}

fn run() -> Result<(), Error> {
    let options = parse(std::env::args().skip(1))?;
    let tls = options.app.tls.clone();
    let server = Server::with_config(&options.service, options.app, options.config)?;
    server.start_background()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split(' ').collect();
        match words[0] {
            "stats" => say("stats", &stats_json(&server)),
            "reload" => say_result("reload", reload(&server, &words[1..])),
            "keys" => {
                let hex = words.get(1).copied().unwrap_or_default();
                say_result("keys", bytes(hex).and_then(|keys| tls.set_ticket_keys(&keys)));
            }
            "stop" => break,
            _ => say("unknown", &[("line", quoted(&line))]),
        }
    }
    server.stop()?;
    say("stopped", &stats_json(&server));
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tls_server: {error}");
            ExitCode::FAILURE
        }
    }
}
