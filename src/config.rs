//! Settings, their defaults and their validation.

#![forbid(unsafe_code)]

use std::time::Duration;

use crate::error::{quoted, Error, Status};
use crate::logger::Logger;
use crate::proxy::{ProxyProtocol, Trusted};
use crate::tls::TlsConfig;

/// The largest time that a setting accepts: `i32::MAX` milliseconds (24.8
/// days), the longest wait of poll(2).
pub const MAX_TIME: Duration = Duration::from_millis(i32::MAX as u64);

/// The largest number of threads of one server.
pub const MAX_THREADS: u32 = 4096;

/// The settings of a server.
///
/// Every field has a builder method of the same name:
///
/// ```
/// use net_server::Config;
/// let config = Config::new().max_thread(4).non_blocking(true);
/// assert_eq!(config.max_thread, 4);
/// ```
///
/// Times are at most [`MAX_TIME`]. Where a setting is an `Option`, `None`
/// turns it off.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Workers (blocking mode) or event loops (non-blocking mode): 1 to
    /// [`MAX_THREADS`]; default 1.
    pub max_thread: u32,
    /// How many `retry_interval`s a connection waits for a worker before the
    /// server refuses it: at most 1,000,000; default 10. It may wait 20 ms
    /// longer. For blocking mode with more than one worker.
    pub max_retry: u32,
    /// The unit of `max_retry`; default 500 ms.
    pub retry_interval: Duration,
    /// The number of connections that may wait for a worker; default 1024.
    /// Beyond it the server refuses a connection without the wait.
    pub max_waiting: u32,
    /// Use event loops instead of workers; default false.
    pub non_blocking: bool,
    /// The beginning of the names of the server's threads: 1 to 9 bytes, without
    /// control characters; default `ns`. The loops are `ns-l0`, `ns-l1`, …, the
    /// workers `ns-w0`, …, the control thread is `ns-c` and that of the shutdown
    /// port `ns-s`.
    pub thread_name: String,
    /// The size of the stack of each of the server's threads in bytes: 128 KiB
    /// to 1 GiB; default 2 MiB. The environment variable `RUST_MIN_STACK` does
    /// not matter.
    pub stack_size: usize,
    /// Listen on IPv6 too where the service names no host; default false.
    pub use_ipv6: bool,
    /// Other servers of the same user with this setting may listen on the same
    /// ports (`SO_REUSEPORT`, socket(7)); the kernel spreads the clients over
    /// them. Not for the shutdown port; default false.
    pub reuse_port: bool,
    /// The program may lend the listening descriptors of a server in blocking
    /// mode ([`Server::listener_fd`](crate::Server::listener_fd)): its workers
    /// poll before they accept, one more system call for each connection. A
    /// server in non-blocking mode lends them anyway; default false.
    pub lend_listeners: bool,
    /// The permissions of the file of a `unix:` service, at most 0o777; default
    /// 0o600: this user alone may connect. The process's umask does not matter.
    pub unix_mode: u32,
    /// The service of the shutdown port; default none.
    pub shutdown_port: Option<String>,
    /// The number of open and waiting connections at which the server pauses
    /// accepting, so that clients wait in the backlog. 0 (default): the
    /// process's descriptor limit less a reserve of 64 and a sixteenth, but at
    /// least 16.
    pub max_connections: u32,
    /// The most connections that one address may have open, waiting ones
    /// included: 0 (default) is no bound. The server closes a further one
    /// immediately, by a reset and before TLS; it has no callback.
    /// [`Stats::closed`](crate::Stats::closed) counts it by
    /// [`CloseReason::Limit`](crate::CloseReason::Limit), and the exception
    /// handler gets [`Status::Limit`] without a socket, at most once a second,
    /// with the number of the refused in its text. What shares a prefix
    /// ([`ipv4_prefix`](#structfield.ipv4_prefix),
    /// [`ipv6_prefix`](#structfield.ipv6_prefix)) is one address, over all
    /// threads and services of the server. Clients of unix sockets, adopted,
    /// outgoing, attached and detached connections do not count.
    pub max_per_address: u32,
    /// The most connections that one address may open in a second, on average:
    /// 0 (default) is no bound. A further one is refused as by
    /// `max_per_address`. A refused connection does not count. The server keeps
    /// the rates of 65,536 addresses and forgets those that were used least.
    pub accept_rate_per_address: u32,
    /// The most connections that one address may open at once, where it has
    /// opened none for long enough; 0 (default): as many as
    /// `accept_rate_per_address`.
    pub accept_burst_per_address: u32,
    /// How many bits of an IPv4 address make one address for the limits per
    /// address: 1 to 32; default 32.
    pub ipv4_prefix: u32,
    /// How many bits of an IPv6 address make one address for the limits per
    /// address: 1 to 128; default 64, the least that a site
    /// has (RFC 6177).
    pub ipv6_prefix: u32,
    /// The number of connections that the kernel holds until the server
    /// accepts them: 1 to 65,535; default 4096. The kernel's own cap
    /// (`somaxconn`) applies.
    pub backlog: u32,
    /// TLS for the connections of the first service; default none.
    /// [`Server::add_service_tls`](crate::Server::add_service_tls) adds
    /// services with TLS of their own.
    pub tls: Option<TlsConfig>,
    /// The number of TLS handshakes that go on at the same time; further ones
    /// wait. Each loop has an equal part, at least one. A client counts when
    /// its whole first record has come. 0: no bound; default 1024.
    pub max_handshakes: u32,
    /// The time that a whole TLS handshake may take; default 10 s.
    pub handshake_timeout: Duration,
    /// The versions of the PROXY protocol that every service accepts, unless
    /// [`Server::set_service_proxy`](crate::Server::set_service_proxy) says
    /// otherwise; default [`ProxyProtocol::Off`]. Nothing is detected: a source
    /// among `trusted_proxies` must send a header, before TLS, and every other one
    /// is refused, unless `proxy_others` lets it in. A connection that is refused,
    /// or whose header is bad, ends immediately: the exception handler gets
    /// [`Status::Proxy`], no other callback runs, and it is counted as
    /// [`CloseReason::Proxy`](crate::CloseReason::Proxy). A header has at most
    /// 4,096 bytes.
    pub proxy_protocol: ProxyProtocol,
    /// The sources whose PROXY headers are believed: addresses and networks
    /// (`192.0.2.1`, `10.0.0.0/8`, `::1`, `2001:db8::/32`), or `unix` for all
    /// peers of unix sockets; default none. With `proxy_protocol` there must be
    /// one.
    pub trusted_proxies: Vec<String>,
    /// The time that a whole PROXY header may take; default 3 s. The time for a
    /// TLS handshake begins after it.
    pub proxy_timeout: Duration,
    /// Where `proxy_protocol` is on: serve a source that is no trusted proxy as an
    /// ordinary client, whose bytes are not looked at, instead of refusing it;
    /// default false.
    pub proxy_others: bool,
    /// The time after which the server closes a connection that neither sent
    /// nor received a byte; default off. In blocking mode the worker checks it
    /// while the handler waits in `recv` or `send`.
    pub idle_timeout: Option<Duration>,
    /// The time that a blocking `recv` or `send` may take; default off.
    pub io_timeout: Option<Duration>,
    /// The time after which the server closes a connection whose queued bytes
    /// make no progress; default 30 s.
    pub write_timeout: Option<Duration>,
    /// The time for which the server discards the input of a closed connection
    /// whose peer has not closed, and for which a worker's or a detached
    /// connection goes on to send its unsent bytes; default 1 s, zero for
    /// none.
    pub linger_timeout: Duration,
    /// The time for which a stop lets handlers finish and bytes leave; default
    /// 5 s.
    pub drain_timeout: Duration,
    /// The idle time before TCP keep-alive probes (`TCP_KEEPIDLE` of tcp(7)),
    /// rounded up to whole seconds, at most 32,767 s; default 60 s. The kernel
    /// ends a connection whose peer acknowledges none of four probes, which
    /// are a quarter of this time apart, at least a second.
    pub keep_alive: Option<Duration>,
    /// `TCP_NODELAY`; default true.
    pub no_delay: bool,
    /// The number of queued bytes above which the server does not read a
    /// connection: 1 to `send_limit`; default 256 KiB.
    pub high_water_mark: usize,
    /// The number of queued bytes to which a queue has shrunk when
    /// [`on_drain`](crate::Handler::on_drain) reports it: 0, which is an empty
    /// queue, to `send_limit`; default 0.
    pub low_water_mark: usize,
    /// The largest number of queued bytes of a connection: 1 to 2 GiB − 1, and
    /// no less than the two marks; default 16 MiB. Where it is less than
    /// 256 KiB, set `high_water_mark` too.
    pub send_limit: usize,
    /// The largest number of queued bytes of all connections of the server
    /// together, those included that were sent by id and wait for their loop: 0
    /// (default) is no bound. Beyond it `send`, also by id, is
    /// [`Status::BufferFull`] and nothing of it is sent. For non-blocking mode.
    ///
    /// In a callback of its connection, and by id in another one of
    /// its loop, up to 64 KiB for a connection that has nothing queued are sent
    /// at any total, if the kernel takes bytes at that moment: so a peer that
    /// reads is served although others do not. What the kernel leaves of them is
    /// queued, beyond the bound; a large message of each loop and an attached
    /// queue may pass it too.
    ///
    /// After a refusal [`on_drain`](crate::Handler::on_drain) tells when the
    /// connection's own queue has left; where it has none, try again after a
    /// while, as with [`Socket::set_timer`](crate::Socket::set_timer).
    pub send_limit_total: usize,
    /// Gets the lines of the server's log; default none: then no text is made.
    ///
    /// There is a line for the start and for each address that the server
    /// listens on, for the stop with its counts, and for each reload of TLS
    /// settings ([`LogLevel::Info`](crate::LogLevel::Info)); for failures to
    /// accept, refused connections and those beyond a limit, refused PROXY
    /// headers and failed TLS handshakes
    /// ([`LogLevel::Warn`](crate::LogLevel::Warn)), of each kind one in a second
    /// with the number of those that were left out; for a listener that was lost
    /// and for a loop that has ended
    /// ([`LogLevel::Error`](crate::LogLevel::Error)).
    pub logger: Option<Logger>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_thread: 1,
            max_retry: 10,
            retry_interval: Duration::from_millis(500),
            max_waiting: 1024,
            non_blocking: false,
            thread_name: "ns".into(),
            stack_size: 2 << 20,
            use_ipv6: false,
            reuse_port: false,
            lend_listeners: false,
            unix_mode: 0o600,
            shutdown_port: None,
            max_connections: 0,
            max_per_address: 0,
            accept_rate_per_address: 0,
            accept_burst_per_address: 0,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            backlog: 4096,
            tls: None,
            max_handshakes: 1024,
            handshake_timeout: Duration::from_secs(10),
            proxy_protocol: ProxyProtocol::Off,
            trusted_proxies: Vec::new(),
            proxy_timeout: Duration::from_secs(3),
            proxy_others: false,
            idle_timeout: None,
            io_timeout: None,
            write_timeout: Some(Duration::from_secs(30)),
            linger_timeout: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
            keep_alive: Some(Duration::from_secs(60)),
            no_delay: true,
            high_water_mark: 256 << 10,
            low_water_mark: 0,
            send_limit: 16 << 20,
            send_limit_total: 0,
            logger: None,
        }
    }
}

macro_rules! builders {
    ($($name:ident: $type:ty;)*) => {
        $(
            #[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), ").")]
            #[must_use]
            pub fn $name(mut self, $name: $type) -> Config {
                self.$name = $name.into();
                self
            }
        )*
    };
}

impl Config {
    /// Returns the default settings.
    pub fn new() -> Config {
        Config::default()
    }

    builders! {
        max_thread: u32;
        max_retry: u32;
        retry_interval: Duration;
        max_waiting: u32;
        non_blocking: bool;
        thread_name: impl Into<String>;
        stack_size: usize;
        use_ipv6: bool;
        reuse_port: bool;
        lend_listeners: bool;
        unix_mode: u32;
        max_connections: u32;
        max_per_address: u32;
        accept_rate_per_address: u32;
        accept_burst_per_address: u32;
        ipv4_prefix: u32;
        ipv6_prefix: u32;
        backlog: u32;
        tls: impl Into<Option<TlsConfig>>;
        max_handshakes: u32;
        handshake_timeout: Duration;
        proxy_protocol: ProxyProtocol;
        trusted_proxies: impl Into<Vec<String>>;
        proxy_timeout: Duration;
        proxy_others: bool;
        idle_timeout: impl Into<Option<Duration>>;
        io_timeout: impl Into<Option<Duration>>;
        write_timeout: impl Into<Option<Duration>>;
        linger_timeout: Duration;
        drain_timeout: Duration;
        keep_alive: impl Into<Option<Duration>>;
        no_delay: bool;
        high_water_mark: usize;
        low_water_mark: usize;
        send_limit: usize;
        send_limit_total: usize;
        logger: impl Into<Option<Logger>>;
    }

    /// Sets [`shutdown_port`](#structfield.shutdown_port).
    #[must_use]
    pub fn shutdown_port(mut self, service: impl Into<String>) -> Config {
        self.shutdown_port = Some(service.into());
        self
    }

    /// Adds one to [`trusted_proxies`](#structfield.trusted_proxies).
    ///
    /// Example: [`Server::add_service`](crate::Server::add_service).
    #[must_use]
    pub fn add_trusted_proxy(mut self, network: impl Into<String>) -> Config {
        self.trusted_proxies.push(network.into());
        self
    }

    /// Checks all bounds. The error is [`Status::Invalid`] and names the
    /// setting.
    ///
    /// ```
    /// use net_server::Config;
    /// let error = Config::new().max_thread(0).validate().unwrap_err();
    /// assert_eq!(error.message(), "max_thread must be 1 to 4096, not 0");
    /// ```
    pub fn validate(&self) -> Result<(), Error> {
        let counts = [
            ("max_thread", u64::from(self.max_thread), 1, u64::from(MAX_THREADS)),
            ("max_retry", u64::from(self.max_retry), 0, 1_000_000),
            ("backlog", u64::from(self.backlog), 1, 65_535),
            ("ipv4_prefix", self.ipv4_prefix.into(), 1, 32),
            ("ipv6_prefix", self.ipv6_prefix.into(), 1, 128),
            ("send_limit", self.send_limit as u64, 1, i32::MAX as u64),
            ("stack_size", self.stack_size as u64, 128 << 10, 1 << 30),
            ("high_water_mark", self.high_water_mark as u64, 1, self.send_limit as u64),
            ("low_water_mark", self.low_water_mark as u64, 0, self.send_limit as u64),
        ];
        for (name, value, least, most) in counts {
            if value < least || value > most {
                let most = match name {
                    "high_water_mark" | "low_water_mark" => format!("{most} (send_limit)"),
                    _ => most.to_string(),
                };
                return Err(invalid(format!("{name} must be {least} to {most}, not {value}")));
            }
        }
        let name = &self.thread_name;
        // The kernel keeps 15 bytes (PR_SET_NAME), of which "-w4096" needs 6.
        if !(1..=9).contains(&name.len()) || name.chars().any(char::is_control) {
            let bounds = "1 to 9 bytes without control characters";
            return Err(invalid(format!("thread_name must be {bounds}, not {}", quoted(name))));
        }
        if self.unix_mode > 0o777 {
            let text = format!("unix_mode must be at most 0o777, not {:#o}", self.unix_mode);
            return Err(invalid(text));
        }
        let times = [
            ("retry_interval", Some(self.retry_interval)),
            ("handshake_timeout", Some(self.handshake_timeout)),
            ("proxy_timeout", Some(self.proxy_timeout)),
            ("idle_timeout", self.idle_timeout),
            ("io_timeout", self.io_timeout),
            ("write_timeout", self.write_timeout),
            ("linger_timeout", Some(self.linger_timeout)),
            ("drain_timeout", Some(self.drain_timeout)),
            ("keep_alive", self.keep_alive),
        ];
        for (name, value) in times {
            if value.is_some_and(|time| time > MAX_TIME) {
                return Err(invalid(format!("{name} must be at most {} ms", MAX_TIME.as_millis())));
            }
        }
        // The kernel's own bound, MAX_TCP_KEEPIDLE (tcp(7) gives the options).
        if self.keep_alive.is_some_and(|time| time > Duration::from_secs(32_767)) {
            return Err(invalid("keep_alive must be at most 32767 s".into()));
        }
        self.check_proxy(self.proxy_protocol)?;
        Ok(())
    }

    /// Returns the trusted proxies, of which a service that accepts these versions
    /// needs one.
    pub(crate) fn check_proxy(&self, versions: ProxyProtocol) -> Result<Trusted, Error> {
        let trusted = Trusted::parse(&self.trusted_proxies)?;
        if versions != ProxyProtocol::Off && trusted.is_empty() {
            let text = "proxy_protocol is on, and no proxy is trusted: trusted_proxies is empty";
            return Err(invalid(text.into()));
        }
        Ok(trusted)
    }
}

fn invalid(message: String) -> Error {
    Error::new(Status::Invalid, message)
}

/// The settings that a connection reads in each call, in the units that it
/// computes with. Times are in milliseconds, 0 for off.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub high_water: usize,
    pub low_water: usize,
    pub send_limit: usize,
    pub idle_ms: u64,
    pub io_ms: u64,
    pub write_ms: u64,
    pub linger_ms: u64,
    pub handshake_ms: u64,
}

impl Limits {
    pub fn of(config: &Config) -> Limits {
        let millis = |time: Option<Duration>| time.map_or(0, |t| t.as_millis().max(1) as u64);
        Limits {
            high_water: config.high_water_mark,
            low_water: config.low_water_mark,
            send_limit: config.send_limit,
            idle_ms: millis(config.idle_timeout),
            io_ms: millis(config.io_timeout),
            write_ms: millis(config.write_timeout),
            linger_ms: config.linger_timeout.as_millis() as u64,
            handshake_ms: config.handshake_timeout.as_millis() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::new().validate().unwrap();
    }

    #[test]
    fn an_error_names_the_setting_out_of_bounds() {
        let bad = [
            ("max_thread", Config::new().max_thread(0)),
            ("max_thread", Config::new().max_thread(MAX_THREADS + 1)),
            ("max_retry", Config::new().max_retry(1_000_001)),
            ("unix_mode", Config::new().unix_mode(0o1000)),
            ("thread_name", Config::new().thread_name("")),
            ("thread_name", Config::new().thread_name("ten_letter")),
            ("thread_name", Config::new().thread_name("a\0b")),
            ("stack_size", Config::new().stack_size((128 << 10) - 1)),
            ("stack_size", Config::new().stack_size((1 << 30) + 1)),
            ("backlog", Config::new().backlog(0)),
            ("send_limit", Config::new().send_limit(0)),
            ("high_water_mark must be 1 to 9 (send_limit)", Config::new().send_limit(9)),
            ("low_water_mark", Config::new().low_water_mark(2).high_water_mark(1).send_limit(1)),
            ("idle_timeout", Config::new().idle_timeout(MAX_TIME + Duration::from_millis(1))),
            ("keep_alive", Config::new().keep_alive(Duration::from_secs(32_768))),
            ("proxy_timeout", Config::new().proxy_timeout(MAX_TIME + Duration::from_millis(1))),
            ("proxy_protocol", Config::new().proxy_protocol(ProxyProtocol::Both)),
            ("trusted proxy \"any\"", Config::new().add_trusted_proxy("any")),
        ];
        for (name, config) in bad {
            let error = config.validate().unwrap_err();
            assert_eq!(error.status(), Status::Invalid);
            assert!(error.message().starts_with(name), "{error}");
        }
    }
}
