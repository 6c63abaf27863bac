//! Status numbers, close reasons and the error object.

#![forbid(unsafe_code)]

mod convert;

use std::any::Any;
use std::fmt;
use std::io;

macro_rules! statuses {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $message:literal;)*) => {
        /// The outcome of a call. The numbers are stable: 0 is success, each
        /// failure is −1001 or below, so that a handler's own `-1` is no
        /// status.
        #[repr(i32)]
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Status { $($(#[$doc])* $variant = $code,)* }

        impl Status {
            /// All statuses, success first.
            pub const ALL: &'static [Status] = &[$(Status::$variant,)*];

            /// Returns the name of the C constant, for example
            /// `"NS_ERR_CLOSED"`.
            pub fn name(self) -> &'static str {
                match self { $(Status::$variant => $name,)* }
            }

            /// Returns a short sentence that says what the status means.
            pub fn message(self) -> &'static str {
                match self { $(Status::$variant => $message,)* }
            }
        }
    };
}

// The one table of statuses: meaning, number, name, and the text of
// `ns_status_message`. The constants of the C ABI and the README's list repeat
// number, name and meaning; `tests/header.rs` compares them.
statuses! {
    /// Success.
    Ok = 0, "NS_OK", "success";
    /// An argument is not valid: NULL, not UTF-8, out of its bounds.
    Invalid = -1001, "NS_ERR_INVALID", "invalid argument";
    /// The server, config, TLS object or socket is in the wrong state for this
    /// call.
    State = -1002, "NS_ERR_STATE", "wrong state for this call";
    /// A deadline passed.
    Timeout = -1003, "NS_ERR_TIMEOUT", "timed out";
    /// The connection is closed, or its id is stale.
    Closed = -1004, "NS_ERR_CLOSED", "the connection is closed";
    /// The peer reset the connection, or the transport failed.
    Reset = -1005, "NS_ERR_RESET", "the connection was reset";
    /// Nothing can be read now; no failure in a handler.
    WouldBlock = -1006, "NS_ERR_WOULD_BLOCK", "the call would block";
    /// The outbound queue would pass `send_limit`, or all queues together
    /// `send_limit_total`; nothing was sent.
    BufferFull = -1007, "NS_ERR_BUFFER_FULL", "the outbound queue is full";
    /// No worker became free in time.
    Rejected = -1008, "NS_ERR_REJECTED", "refused: no worker became free in time";
    /// The socket is detached from the server.
    Detached = -1009, "NS_ERR_DETACHED", "the socket is detached";
    /// Only a non-blocking server can do this.
    NotNonBlocking = -1010, "NS_ERR_NOT_NON_BLOCKING", "only on a non-blocking server";
    /// Only a callback of this connection can do this.
    NotInHandler = -1011, "NS_ERR_NOT_IN_HANDLER", "only inside a callback of this connection";
    /// A callback of the same server cannot do this; or the socket has buffered
    /// bytes.
    Busy = -1012, "NS_ERR_BUSY", "busy: called from one of the server's callbacks";
    /// The call would wait for its own thread.
    Deadlock = -1013, "NS_ERR_DEADLOCK", "the call would wait for itself";
    /// A panic was caught: a bug in the library.
    Panic = -1014, "NS_ERR_PANIC", "a panic was caught";
    /// The handler returned a negative number of its own.
    Handler = -1015, "NS_ERR_HANDLER", "the handler failed";
    /// The service or host cannot be resolved.
    Address = -1016, "NS_ERR_ADDRESS", "the service cannot be resolved";
    /// Binding or listening failed.
    Listen = -1017, "NS_ERR_LISTEN", "cannot listen";
    /// Another failure of the operating system.
    Io = -1018, "NS_ERR_IO", "input/output error";
    /// No slot is left for a connection, or the kernel has no memory for it
    /// (`ENOMEM`, `ENOBUFS`), or the process has none for what the library keeps
    /// of a new connection. If the process gets no other memory, it is aborted.
    NoMemory = -1019, "NS_ERR_NO_MEMORY", "no slot or no memory is left";
    /// A thread cannot be created.
    Thread = -1020, "NS_ERR_THREAD", "cannot create a thread";
    /// This system or build cannot do it.
    Unsupported = -1021, "NS_ERR_UNSUPPORTED", "not supported";
    /// Accepting a connection failed.
    Accept = -1022, "NS_ERR_ACCEPT", "cannot accept a connection";
    /// The `on_start` hook failed.
    Hook = -1023, "NS_ERR_HOOK", "the on_start hook failed";
    /// TLS failed, or the peer broke its rules.
    Tls = -1024, "NS_ERR_TLS", "TLS failed";
    /// The stream ended without the close_notify of TLS: it may be cut short
    /// (RFC 8446, 6.1).
    Truncated = -1025, "NS_ERR_TRUNCATED", "the stream was truncated";
    /// The TLS handshake failed.
    Handshake = -1026, "NS_ERR_HANDSHAKE", "the TLS handshake failed";
    /// A certificate or key cannot be used.
    Certificate = -1027, "NS_ERR_CERTIFICATE", "a certificate or key cannot be used";
    /// Connecting failed.
    Connect = -1028, "NS_ERR_CONNECT", "cannot connect";
    /// The PROXY header is missing or bad, or comes from no trusted proxy.
    Proxy = -1030, "NS_ERR_PROXY", "the PROXY header is missing or bad";
    /// Connections were refused beyond a limit of their address.
    Limit = -1031, "NS_ERR_LIMIT", "refused: beyond a limit of the address";
}

impl Status {
    /// Returns the stable number, 0 or negative.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// Returns the status that has a number, if there is one.
    pub fn from_code(code: i32) -> Option<Status> {
        Status::ALL.iter().copied().find(|s| s.code() == code)
    }

    /// Returns the status that has a sentence, if there is one.
    fn from_message(message: &str) -> Option<Status> {
        Status::ALL.iter().copied().find(|s| s.message() == message)
    }

    fn of_io(error: &io::Error) -> Status {
        match error.kind() {
            io::ErrorKind::WouldBlock => Status::WouldBlock,
            io::ErrorKind::TimedOut => Status::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Status::Reset,
            io::ErrorKind::NotConnected => Status::Closed,
            _ => Status::Io,
        }
    }

    /// Returns the status for a failed transfer on an open connection.
    pub(crate) fn of_transfer(error: &io::Error) -> Status {
        match error.raw_os_error() {
            Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => Status::Reset,
            Some(libc::EAGAIN) => Status::WouldBlock,
            // Keep-alive or retransmission gave up on a vanished peer.
            Some(libc::ETIMEDOUT) => Status::Timeout,
            Some(libc::ENOMEM | libc::ENOBUFS) => Status::NoMemory,
            _ => Status::Io,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Status {}

/// Why a connection ended. `on_close` gets it, and
/// [`Stats::closed`](crate::Stats::closed) counts by it.
///
/// ```
/// use net_server::CloseReason;
/// assert_eq!(CloseReason::from_code(4), Some(CloseReason::Idle));
/// assert_eq!(CloseReason::Idle.name(), "idle");
/// ```
#[repr(i32)]
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The program closed it.
    Handler = 1,
    /// The program closed it after it had seen the end of the stream.
    Peer = 2,
    /// The peer reset it, or the transport failed.
    Reset = 3,
    /// `idle_timeout` passed.
    Idle = 4,
    /// Its one-shot timer fired and there is no `on_timeout`.
    Timer = 5,
    /// Queued bytes made no progress for `write_timeout`.
    WriteTimeout = 6,
    /// The handler failed or panicked.
    Error = 7,
    /// The program aborted it.
    Abort = 8,
    /// A stop closed it; nothing that was sent is lost.
    Stop = 9,
    /// A stop ended it; something may be lost.
    Cut = 10,
    /// No worker became free in time.
    Rejected = 11,
    /// Its TLS handshake failed.
    Handshake = 12,
    /// It was never connected: the connect failed.
    Connect = 13,
    /// Its PROXY header was missing or bad, or came from no trusted proxy.
    Proxy = 14,
    /// It was refused beyond a limit of its address. It has no callback.
    Limit = 15,
}

impl CloseReason {
    /// One more than the largest number; the length of `Stats::closed`.
    pub const COUNT: usize = 16;

    const ALL: [CloseReason; 15] = [
        CloseReason::Handler,
        CloseReason::Peer,
        CloseReason::Reset,
        CloseReason::Idle,
        CloseReason::Timer,
        CloseReason::WriteTimeout,
        CloseReason::Error,
        CloseReason::Abort,
        CloseReason::Stop,
        CloseReason::Cut,
        CloseReason::Rejected,
        CloseReason::Handshake,
        CloseReason::Connect,
        CloseReason::Proxy,
        CloseReason::Limit,
    ];

    /// Returns the reason that has a number, if there is one.
    pub fn from_code(code: i32) -> Option<CloseReason> {
        CloseReason::ALL.into_iter().find(|r| *r as i32 == code)
    }

    /// Returns the reason as one word, as in the report.
    pub fn name(self) -> &'static str {
        match self {
            CloseReason::Handler => "handler",
            CloseReason::Peer => "peer",
            CloseReason::Reset => "reset",
            CloseReason::Idle => "idle",
            CloseReason::Timer => "timer",
            CloseReason::WriteTimeout => "write-timeout",
            CloseReason::Error => "error",
            CloseReason::Abort => "abort",
            CloseReason::Stop => "stop",
            CloseReason::Cut => "cut",
            CloseReason::Rejected => "rejected",
            CloseReason::Handshake => "handshake",
            CloseReason::Connect => "connect",
            CloseReason::Proxy => "proxy",
            CloseReason::Limit => "limit",
        }
    }
}

/// A failure: a [`Status`], a sentence that says what failed, on what and
/// why, and the code of the operating system, if there is one.
///
/// An error with nothing but a status costs no allocation.
///
/// ```
/// use net_server::{Error, Status};
/// use std::{any::Any, fs::File};
///
/// let error = Error::new(Status::Invalid, "the line has no end");
/// assert_eq!((error.status(), error.message()), (Status::Invalid, "the line has no end"));
///
/// // A handler's own failure, with an object for the exception handler.
/// let error = Error::raise(-7, "not today").with_payload(Box::new(vec![1, 2]));
/// assert_eq!((error.status(), error.handler_code()), (Status::Handler, -7));
/// assert!(error.payload().is_some_and(<dyn Any + Send + Sync>::is::<Vec<i32>>));
///
/// let why = File::open("/no/such/file").unwrap_err();
/// let error = Error::from_os(Status::Io, "cannot open the list", &why);
/// assert_eq!(error.to_string(), "cannot open the list: no such file or directory");
/// ```
pub struct Error {
    status: Status,
    detail: Option<Box<Detail>>,
}

#[derive(Default)]
struct Detail {
    message: String,
    os_code: i32,
    handler_code: i32,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    payload: Option<Box<dyn Any + Send + Sync>>,
}

impl Error {
    /// Makes an error with its own sentence.
    ///
    /// Example: [`Error`].
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error::from(status).edit(|d| d.message = message.into())
    }

    /// Makes an error for a handler's own failure, of a negative code and a
    /// sentence. A code that is a [`Status`] number gives that status, any
    /// other gives [`Status::Handler`]; a code ≥ 0 becomes −1.
    ///
    /// Example: [`Error`].
    pub fn raise(code: i32, message: impl Into<String>) -> Error {
        let code = if code < 0 { code } else { -1 };
        let status = Status::from_code(code).unwrap_or(Status::Handler);
        Error::new(status, message).edit(|d| d.handler_code = code)
    }

    /// Makes an error for a handler that returned a negative number and raised
    /// nothing.
    #[cfg(feature = "capi")]
    pub(crate) fn of_code(code: i32) -> Error {
        match Status::from_code(code) {
            Some(status) => Error::raise(code, format!("the handler returned {}", status.name())),
            None => Error::raise(code, format!("the handler returned {code}")),
        }
    }

    /// Returns this error with the number `code` that a C handler returned.
    #[cfg(feature = "capi")]
    pub(crate) fn of_handler(self, code: i32) -> Error {
        let message = self.message().to_string();
        self.edit(|d| (d.message, d.handler_code) = (message, code))
    }

    /// Makes an error for a failed system call. Its sentence is `what` and the
    /// reason, for example `cannot listen on "http": permission denied`.
    ///
    /// Example: [`Error`].
    pub fn from_os(status: Status, what: &str, error: &io::Error) -> Error {
        let code = error.raw_os_error().unwrap_or(0);
        Error::new(status, format!("{what}: {}", reason(error))).edit(|d| d.os_code = code)
    }

    /// Makes this the failure of a hook, with which `start` fails.
    pub(crate) fn into_hook(mut self, hook: &str) -> Error {
        self.status = Status::Hook;
        self.edit(|d| d.message = format!("{hook} failed: {}", d.message))
    }

    pub(crate) fn append(self, text: &str) -> Error {
        self.edit(|d| d.message.push_str(text))
    }

    /// Attaches an object, for the exception handler.
    ///
    /// Example: [`Error`].
    pub fn with_payload(self, payload: Box<dyn Any + Send + Sync>) -> Error {
        self.edit(|d| d.payload = Some(payload))
    }

    /// Returns the status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Returns the code of the operating system (`errno`), 0 if there is none.
    pub fn os_code(&self) -> i32 {
        self.detail.as_ref().map_or(0, |d| d.os_code)
    }

    /// Returns the negative number that the handler returned or raised, else
    /// 0.
    pub fn handler_code(&self) -> i32 {
        self.detail.as_ref().map_or(0, |d| d.handler_code)
    }

    /// Returns the whole sentence.
    pub fn message(&self) -> &str {
        match &self.detail {
            Some(d) if !d.message.is_empty() => &d.message,
            _ => self.status.message(),
        }
    }

    /// Returns the object that [`Error::with_payload`] attached.
    pub fn payload(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.detail.as_ref()?.payload.as_deref()
    }

    /// Makes an error of any other. One of our own costs no allocation: nearly
    /// all say that nothing can be read now.
    pub(crate) fn of_any<E>(error: E) -> Error
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let mut error = Some(error);
        let ours = (&mut error as &mut dyn Any).downcast_mut::<Option<Error>>();
        match ours.and_then(Option::take) {
            Some(ours) => ours,
            None => error.map_or(Error::from(Status::Handler), |error| Error::from(error.into())),
        }
    }

    /// Makes an error of a status and a code of the operating system; 0 is no
    /// code.
    pub(crate) fn with_os_code(status: Status, os_code: i32) -> Error {
        if os_code == 0 {
            return Error::from(status);
        }
        let why = io::Error::from_raw_os_error(os_code);
        Error::new(status, format!("{}: {}", status.message(), reason(&why)))
            .edit(|d| d.os_code = os_code)
    }

    /// Makes an error of a caught panic.
    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Error {
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        match text {
            Some(text) => Error::new(Status::Panic, format!("a panic was caught: {text}")),
            None => Error::from(Status::Panic),
        }
    }

    fn edit(mut self, change: impl FnOnce(&mut Detail)) -> Error {
        change(self.detail.get_or_insert_default());
        self
    }
}

/// Returns the operating system's message without the "(os error N)" that std
/// appends: [`Error::os_code`] returns the code.
pub(crate) fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(" (os error ") {
        text.truncate(end);
    }
    // The text continues a sentence, so its first letter becomes small: that
    // of "Permission denied", not that of "RPC failed".
    let mut letters = text.chars();
    if let (Some(first), Some('a'..='z')) = (letters.next(), letters.next()) {
        text.replace_range(..first.len_utf8(), &first.to_lowercase().to_string());
    }
    text
}

/// Returns a name in quotation marks, for an error's sentence: at most 100
/// characters on one line. PEM text may be a key that the program gave by
/// mistake where a name belongs, so the function shows nothing of it.
pub(crate) fn quoted(name: &str) -> String {
    if name.contains("-----BEGIN") {
        return "(PEM text, not shown)".into();
    }
    let mut text = String::from("\"");
    text.extend(name.chars().take(100).map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    text.push_str(if name.chars().nth(100).is_some() { "…\"" } else { "\"" });
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.status.name(), self.message())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.detail.as_ref()?.source.as_ref()?;
        Some(source.as_ref())
    }
}
