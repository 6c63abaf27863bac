//! The program's own data of a connection.

#![forbid(unsafe_code)]

use std::any::Any;

use super::Socket;
use crate::conn::Conn;

impl Socket<'_> {
    /// Returns the program's own data of this connection, if it is a `T`.
    pub fn user_data<T: Any>(&self) -> Option<&T> {
        self.conn.user_data()?.downcast_ref()
    }

    /// Returns the same data, to change it.
    pub fn user_data_mut<T: Any>(&mut self) -> Option<&mut T> {
        self.conn.user_data_mut()?.downcast_mut()
    }

    /// Calls `body` with the socket and its data, if that is a `T`, so that the
    /// program can send while it holds the data. Meanwhile the connection has no
    /// data: a detach fails with [`Status::Busy`](crate::Status::Busy), and data that `body` attaches
    /// replaces this. If `body` panics, the data is dropped.
    ///
    /// ```
    /// use net_server::{Error, Server, Socket};
    ///
    /// // Each reply says how many bytes have come.
    /// let handler = |_: &Server, socket: &mut Socket<'_>| -> Result<(), Error> {
    ///     let n = socket.recv(&mut [0; 4096])?;
    ///     if socket.user_data::<usize>().is_none() {
    ///         socket.set_user_data(0_usize);
    ///     }
    ///     let sent = socket.with_user_data(|socket, sum: &mut usize| {
    ///         *sum += n;
    ///         socket.send(format!("{sum}\n").as_bytes())
    ///     });
    ///     sent.unwrap_or(Ok(()))
    /// };
    /// # let _ = Server::new("0", handler);
    /// ```
    pub fn with_user_data<T: Any + Send, R>(
        &mut self,
        body: impl FnOnce(&mut Socket<'_>, &mut T) -> R,
    ) -> Option<R> {
        self.user_data::<T>()?;
        let data = self.conn.replace_user_data(Some(Box::new(Lent)))?;
        let mut data = data.downcast::<T>().ok()?;
        let place = LentPlace(self.conn);
        let result = body(&mut Socket::of(place.0), &mut data);
        if is_lent(place.0) {
            place.0.replace_user_data(Some(data));
        }
        Some(result)
    }

    /// Attaches data to the connection, in place of former data. The library
    /// drops the data after `on_close`; a detached connection keeps it.
    ///
    /// ```
    /// use net_server::OwnedSocket;
    /// use std::os::unix::net::UnixStream;
    ///
    /// let mut owned = OwnedSocket::from_fd(UnixStream::pair()?.0)?;
    /// let mut socket = owned.socket();
    /// socket.set_user_data(1_u64);
    /// *socket.user_data_mut::<u64>().expect("it is a u64") += 1;
    /// assert_eq!(socket.user_data::<u64>(), Some(&2));
    /// assert_eq!(socket.user_data::<String>(), None);
    /// assert_eq!(socket.take_user_data::<u64>(), Some(2));
    /// # Ok::<(), net_server::Error>(())
    /// ```
    pub fn set_user_data<T: Any + Send>(&mut self, data: T) {
        let former = self.conn.replace_user_data(Some(Box::new(data)));
        drop(former);
    }

    /// Takes the data out, if it is a `T`.
    ///
    /// Example: [`Socket::set_user_data`].
    pub fn take_user_data<T: Any>(&mut self) -> Option<T> {
        self.user_data::<T>()?;
        let data = self.conn.replace_user_data(None)?;
        let data: Box<dyn Any> = data;
        data.downcast().ok().map(|data| *data)
    }
}

/// Stands for the data that [`Socket::with_user_data`] has lent.
struct Lent;

/// Where that data was; it does not stay lent if the borrower panics.
struct LentPlace<'a>(&'a mut Conn);

impl Drop for LentPlace<'_> {
    fn drop(&mut self) {
        if is_lent(self.0) {
            self.0.replace_user_data(None);
        }
    }
}

/// Returns whether [`Socket::with_user_data`] has lent the connection's data.
pub(crate) fn is_lent(conn: &Conn) -> bool {
    conn.user_data().is_some_and(|data| data.is::<Lent>())
}
