//! tokio_echo: an echo server on tokio's runtime for one thread, a task for each connection.
//!
//!   tokio_echo [-b BYTES]

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use peers::{begin, say_listening, ADDRESS};

async fn serve(mut stream: TcpStream, buffer_size: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(buffer_size); // no page of it is touched before it is used
    while stream.read_buf(&mut buffer).await? > 0 {
        stream.write_all(&buffer).await?;
        buffer.clear();
    }
    Ok(())
}

async fn listen(buffer_size: usize) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(ADDRESS.into())?;
    let listener = socket.listen(4096)?;
    say_listening("tokio_echo", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, buffer_size));
    }
}

fn main() -> io::Result<()> {
    let buffer_size = begin(0).buffer_size;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(listen(buffer_size))
}
