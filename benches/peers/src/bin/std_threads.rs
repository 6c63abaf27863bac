//! std_threads: an echo server on the standard library alone, a thread for each connection.
//!
//!   std_threads [-b BYTES]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use peers::{begin, say_listening, ADDRESS};

fn serve(mut stream: TcpStream, buffer_size: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; buffer_size];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

fn main() -> io::Result<()> {
    let buffer_size = begin(0).buffer_size;
    let listener = TcpListener::bind(ADDRESS)?;
    say_listening("std_threads", listener.local_addr()?)?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new().spawn(move || {
            let _ = serve(stream, buffer_size); // a connection that fails is over
        })?;
    }
    Ok(())
}
