//! A server inside your program: give it a *service* (port) and a *handler*,
//! and it does the listening, the threads, the event loops, the limits, the
//! deadlines and the shutdown.
//!
//! ```
//! use net_server::{Config, Error, Server, Socket};
//!
//! // Echo, in either mode: in blocking mode `recv` waits, in non-blocking
//! // mode it answers `WouldBlock`, which a handler may simply return.
//! fn echo(_: &Server, socket: &mut Socket<'_>) -> Result<(), Error> {
//!     let mut buffer = [0; 4096];
//!     loop {
//!         match socket.recv(&mut buffer)? {
//!             0 => return Ok(socket.close()),
//!             n => socket.send(&buffer[..n])?,
//!         }
//!     }
//! }
//!
//! let server = Server::with_config("127.0.0.1:0", echo, Config::new().non_blocking(true))?;
//! server.start_background()?;
//! println!("echoing on port {}", server.port());
//! server.stop()?;
//! # Ok::<(), Error>(())
//! ```
//!
//! # The two modes
//!
//! In **blocking mode** (the default) a pool of `max_thread` workers runs the
//! handler once per connection; it may block, and the framework closes the
//! socket when it returns. In **non-blocking mode** `max_thread` event loops
//! run the handler whenever its socket can be read; it must not block, and it
//! closes the socket itself.
//!
//! # From other languages
//!
//! The same server is a C library, `libnetserver`, with the header
//! `netserver.h`; it is built with the feature `capi`.

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]
#![warn(missing_docs)]

#[cfg(not(target_os = "linux"))]
compile_error!("net-server runs on Linux; other systems are not supported yet");

mod blocking;
mod callback;
mod config;
mod conn;
mod error;
mod event;
mod handler;
mod listener;
mod outbuf;
mod server;
mod service;
mod shutdown;
mod socket;
mod stats;
mod sys;
mod timer;
mod tls;

#[cfg(feature = "capi")]
#[doc(hidden)]
pub mod ffi;

pub use config::{Config, MAX_THREADS, MAX_TIME};
pub use conn::ConnId;
pub use error::{CloseReason, Error, Status};
pub use handler::Handler;
pub use server::{AttachError, Server, State};
pub use socket::{OwnedSocket, Socket};
pub use stats::{Stats, ThreadStats};
pub use tls::{TlsConfig, TlsInfo, TlsVersion, MAX_SESSIONS};

/// The version of this library, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
