use net_server::{Config, Error, Server, Socket};

fn echo(_server: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    let mut buf = [0; 4096];
    loop {
        match socket.recv(&mut buf)? {
            0 => break socket.close(),
            n => socket.send(&buf[..n])?,
        }
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let service = args.next().unwrap_or("5000".into());
    let config = Config::new().non_blocking(args.next().is_some());
    Server::with_config(&service, echo, config)?.start()
}
