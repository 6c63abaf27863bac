//! What the peers in Rust share: the command line, and saying where they listen.
//!
//!   PEER [-b BYTES] [OPERANDS]
//!
//!   -b BYTES   of the receive buffer (65536)

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::exit;

pub const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

pub struct Options {
    pub buffer_size: usize,
    pub operands: Vec<String>,
}

/// Takes the command line, and as many descriptors as the process may have.
pub fn begin(operands: usize) -> Options {
    let mut options = Options { buffer_size: 1 << 16, operands: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-b" => match args.next().map(|bytes| bytes.parse()) {
                Some(Ok(bytes)) if bytes > 0 => options.buffer_size = bytes,
                _ => usage(),
            },
            _ if arg.starts_with('-') => usage(),
            _ => options.operands.push(arg),
        }
    }
    if options.operands.len() != operands {
        usage();
    }
    rlimit::increase_nofile_limit(u64::MAX).expect("cannot raise the limit of descriptors");
    options
}

fn usage() -> ! {
    eprintln!("see the top of the peer's source");
    exit(2)
}

pub fn say_listening(name: &str, address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{name}: listening on {address}")?;
    stdout.flush()
}
