//! Sending files.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use super::Socket;
use crate::error::{Error, Status};

impl Socket<'_> {
    /// Sends `len` bytes of a file from `offset` on, as [`Socket::send`] would send
    /// them, and returns how many it has accepted. The offset of the descriptor does
    /// not count and stays as it is.
    ///
    /// On a loop it accepts as many as the kernel takes now, 1 MiB at most, and queues
    /// up to 64 KiB behind them. Where that is fewer than `len`,
    /// [`on_drain`](crate::Handler::on_drain) comes when the program can go on with
    /// the rest; until then this accepts 0. There, and without TLS, the kernel takes
    /// the bytes from the file by itself (sendfile(2)): what changes in the file
    /// before the peer has acknowledged it may change in what the peer gets. Up to
    /// 16 KiB that come after another send are read and gathered; a head that
    /// [`Socket::cork`] has gathered leaves together with the file. Elsewhere it sends
    /// all, and the `io_timeout` holds for each 64 KiB. A slow disk is waited
    /// for, on a loop too.
    ///
    /// Errors: [`Status::Io`] where the file cannot be read, or ends before these bytes
    /// do; the connection stays open then, and a part may have been sent.
    /// [`Status::Invalid`] beyond 2^63 − 1. Else as [`Socket::send`].
    ///
    /// ```
    /// use net_server::{Config, Error, Handler, Server, Socket};
    /// use std::fs::File;
    ///
    /// /// Sends a file to each client, and closes.
    /// struct Download(File);
    ///
    /// impl Handler for Download {
    ///     fn on_open(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.set_user_data(0_u64);
    ///         self.go_on(socket)
    ///     }
    ///     fn on_drain(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         self.go_on(socket)
    ///     }
    ///     fn handle(&self, _: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         socket.recv(&mut [0; 4096]).map(drop)
    ///     }
    /// }
    ///
    /// impl Download {
    ///     fn go_on(&self, socket: &mut Socket<'_>) -> Result<(), Error> {
    ///         let len = self.0.metadata().map_or(0, |about| about.len());
    ///         let at = socket.user_data::<u64>().copied().unwrap_or(0);
    ///         let at = at + socket.sendfile(&self.0, at, len - at)?;
    ///         socket.set_user_data(at);
    ///         if at == len {
    ///             socket.close();
    ///         }
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let download = Download(File::open("Cargo.toml").expect("the file is there"));
    /// let server = Server::with_config("0", download, Config::new().non_blocking(true))?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn sendfile(&mut self, file: impl AsFd, offset: u64, len: u64) -> Result<u64, Error> {
        self.conn.sendfile(file.as_fd(), offset, len).map_err(|error| match error.status() {
            Status::Io if self.conn.os_error() == 0 => error,
            status => self.error_of(status),
        })
    }
}
