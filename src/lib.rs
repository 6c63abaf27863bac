//! A server inside your program: you give it a *service* (port) and a
//! *handler*, and it does the listening, the threads, the event loops, the
//! limits, the deadlines and the shutdown.
//!
//! This is an echo server for both modes: any second argument selects the
//! non-blocking one. In blocking mode `recv` waits for data. In non-blocking
//! mode it returns `WouldBlock` when nothing can be read now, and a handler may
//! return that.
//!
//! ```no_run
#![doc = include_str!("../examples/hello_echo.rs")]
//! ```
//!
//! # The two modes
//!
//! In **blocking mode** (the default) a pool of `max_thread` workers runs the
//! handler once per connection; the handler may block, and the library closes
//! the socket when the handler returns. In **non-blocking mode** `max_thread`
//! event loops run the handler whenever its socket can be read; the handler
//! must not block, and it closes the socket itself.
//!
//! # Features
//!
//! - `tls`, on by default: TLS by rustls and aws-lc-rs, whose build needs a C
//!   compiler. Without it there is no `TlsConfig`, so that what takes one cannot
//!   be called.
//! - `log`: a logger that hands its lines to the crate `log`.
//! - `capi`: the C functions.
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

mod address;
mod admission;
mod blocking;
mod callback;
mod clock;
mod config;
mod conn;
mod connect;
mod descriptor;
mod error;
mod event;
mod fork;
mod handler;
mod linger;
mod listener;
mod logger;
mod metrics;
mod outbuf;
mod proxy;
mod server;
mod service;
mod shutdown;
mod socket;
mod state;
mod stats;
mod sync;
mod sys;
mod timers;
// Without the feature the same names stand for what cannot be made.
#[cfg_attr(not(feature = "tls"), path = "no_tls.rs")]
mod tls;

#[cfg(feature = "capi")]
#[doc(hidden)]
pub mod ffi;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use config::{Config, MAX_THREADS, MAX_TIME};
pub use conn::{ConnId, PeerCredentials};
pub use descriptor::AdoptError;
pub use error::{CloseReason, Error, Status};
pub use event::Interest;
pub use handler::Handler;
pub use logger::{LogLevel, Logger};
pub use proxy::ProxyProtocol;
pub use server::{AttachError, Server, TaskId, ThreadKind};
pub use service::MAX_SERVICES;
pub use socket::{OwnedSocket, Socket};
pub use state::State;
pub use stats::{Stats, ThreadStats};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsInfo, TlsVersion, MAX_SESSIONS, MAX_TICKET_KEYS, TICKET_KEY_LEN};

/// The programs of the guide, which the tests of the documentation compile.
#[cfg(doctest)]
mod guide {
    macro_rules! chapters {
        ($($name:ident: $file:literal;)*) => {
            $(
                #[doc = include_str!(concat!("../docs/guide/src/", $file, ".md"))]
                struct $name;
            )*
        };
    }
    chapters! {
        Threads: "threads";
        SlowWork: "slow-work";
        BackPressure: "back-pressure";
        Limits: "limits";
        Stopping: "stopping";
        Behind: "behind";
    }
    #[cfg(feature = "tls")]
    chapters! { Tls: "tls"; }
}

/// The version of this library, as in `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
