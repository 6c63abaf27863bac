//! `ns_server`.

use super::callbacks::{handle, log_line, register, release, release_logger, share};
use super::socket::{millis, OwnedSocket};
use super::tls::with_tls;
use super::{c_text, check, text_of, Config, ConnId, Error, Hooks, Socket};
use super::{CloseReason, ProxyProtocol, State, Stats, Status, ThreadStats};
use net_server::ffi::*;
use std::ffi::c_void;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server, or a callback's view of it.
#[derive(Clone)]
pub struct Server(Arc<Handle>);

struct Handle {
    raw: *mut ns_server,
    owned: bool,
}

// SAFETY: a server may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

#[derive(Debug)]
pub struct AttachError {
    pub error: Error,
    pub socket: OwnedSocket,
}

impl std::fmt::Debug for OwnedSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnedSocket")
    }
}

/// The number of a service that was added.
fn added(number: i32, error: *mut ns_error) -> Result<usize, Error> {
    match usize::try_from(number) {
        Ok(number) => {
            assert!(error.is_null(), "success with an error");
            Ok(number)
        }
        Err(_) => {
            // SAFETY: the failed call has just written it.
            let error = unsafe { Error::taken(error) };
            assert_eq!(error.status().code(), number);
            Err(error)
        }
    }
}

/// The bits of the versions of the PROXY protocol.
fn versions(versions: ProxyProtocol) -> i32 {
    match versions {
        ProxyProtocol::V1 => NS_PROXY_V1,
        ProxyProtocol::V2 => NS_PROXY_V2,
        ProxyProtocol::Both => NS_PROXY_V1 | NS_PROXY_V2,
        _ => 0,
    }
}

/// A C configuration with the same settings and the hooks.
fn configure(config: &Config, hooks: &Arc<Hooks>) -> Result<*mut ns_config, Error> {
    let port = config.shutdown_port.as_deref().map(c_text);
    let count = |time: Duration| millis(Some(time));
    // SAFETY: the config was just made. The statuses are not looked at: the first failure is
    // kept and reported by `ns_server_new`.
    unsafe {
        let raw = ns_config_new();
        ns_config_set_max_thread(raw, config.max_thread);
        ns_config_set_max_retry(raw, config.max_retry);
        ns_config_set_retry_interval_ms(raw, count(config.retry_interval));
        ns_config_set_max_waiting(raw, config.max_waiting);
        ns_config_set_non_blocking(raw, config.non_blocking.into());
        ns_config_set_use_ipv6(raw, config.use_ipv6.into());
        ns_config_set_reuse_port(raw, config.reuse_port.into());
        ns_config_set_lend_listeners(raw, config.lend_listeners.into());
        ns_config_set_unix_mode(raw, config.unix_mode);
        ns_config_set_thread_name(raw, c_text(&config.thread_name).as_ptr());
        ns_config_set_stack_size(raw, config.stack_size);
        if let Some(port) = &port {
            ns_config_set_shutdown_port(raw, port.as_ptr());
        }
        ns_config_set_max_connections(raw, config.max_connections);
        ns_config_set_max_per_address(raw, config.max_per_address);
        ns_config_set_accept_rate_per_address(raw, config.accept_rate_per_address);
        ns_config_set_accept_burst_per_address(raw, config.accept_burst_per_address);
        ns_config_set_ipv4_prefix(raw, config.ipv4_prefix);
        ns_config_set_ipv6_prefix(raw, config.ipv6_prefix);
        ns_config_set_backlog(raw, config.backlog);
        ns_config_set_max_handshakes(raw, config.max_handshakes);
        ns_config_set_handshake_timeout_ms(raw, count(config.handshake_timeout));
        ns_config_set_proxy_protocol(raw, versions(config.proxy_protocol));
        for network in &config.trusted_proxies {
            ns_config_add_trusted_proxy(raw, c_text(network).as_ptr());
        }
        ns_config_set_proxy_timeout_ms(raw, count(config.proxy_timeout));
        ns_config_set_proxy_others(raw, config.proxy_others.into());
        ns_config_set_idle_timeout_ms(raw, millis(config.idle_timeout));
        ns_config_set_io_timeout_ms(raw, millis(config.io_timeout));
        ns_config_set_write_timeout_ms(raw, millis(config.write_timeout));
        ns_config_set_linger_timeout_ms(raw, count(config.linger_timeout));
        ns_config_set_drain_timeout_ms(raw, count(config.drain_timeout));
        ns_config_set_keep_alive_ms(raw, millis(config.keep_alive));
        ns_config_set_no_delay(raw, config.no_delay.into());
        // The order matters where a mark is above the limit of the moment.
        ns_config_set_send_limit(raw, config.send_limit);
        ns_config_set_send_limit_total(raw, config.send_limit_total);
        ns_config_set_high_water_mark(raw, config.high_water_mark);
        ns_config_set_low_water_mark(raw, config.low_water_mark);
        if config.tls.is_some() {
            with_tls(|tls| assert_eq!(ns_config_set_tls(raw, tls), 0));
        }
        if let Some(logger) = &config.logger {
            let level = logger.level() as i32;
            let user_data = Box::into_raw(Box::new(logger.clone())).cast();
            ns_config_set_logger(raw, level, Some(log_line), user_data, Some(release_logger));
        }
        register(raw, hooks)?;
        Ok(raw)
    }
}

// SAFETY of all the calls below: `raw` is a live server, or that of the callback whose view this
// is; buffers are given with their lengths.
impl Server {
    pub fn new(service: &str, hooks: Hooks) -> Result<Server, Error> {
        Server::with_config(service, hooks, Config::new())
    }

    pub fn with_config(service: &str, hooks: Hooks, config: Config) -> Result<Server, Error> {
        let hooks = Arc::new(hooks);
        let service = c_text(service);
        let config = configure(&config, &hooks)?;
        let mut error = null_mut();
        // The server takes its own reference to the config.
        let raw = unsafe {
            let data = share(&hooks);
            let raw = ns_server_new(
                service.as_ptr(),
                Some(handle),
                data,
                Some(release),
                config,
                &mut error,
            );
            ns_config_free(config);
            raw
        };
        if raw.is_null() {
            return Err(unsafe { Error::taken(error) });
        }
        assert!(error.is_null(), "success with an error");
        Ok(Server(Arc::new(Handle { raw, owned: true })))
    }

    /// A callback's view.
    pub(super) fn lent(raw: *mut ns_server) -> Server {
        Server(Arc::new(Handle { raw, owned: false }))
    }

    pub fn raw(&self) -> *mut ns_server {
        self.0.raw
    }

    fn start_with(&self, flags: u32) -> Result<(), Error> {
        let mut error = null_mut();
        let code = unsafe { ns_server_start(self.raw(), flags, &mut error) };
        match code {
            0 => {
                assert!(error.is_null(), "success with an error");
                Ok(())
            }
            code => {
                let error = unsafe { Error::taken(error) };
                assert_eq!(error.status().code(), code);
                Err(error)
            }
        }
    }

    pub fn start(&self) -> Result<(), Error> {
        self.start_with(0)
    }

    pub fn start_background(&self) -> Result<(), Error> {
        self.start_with(NS_START_BACKGROUND)
    }

    pub fn start_hosted(&self) -> Result<(), Error> {
        self.start_with(NS_START_HOSTED)
    }

    pub fn poll_fd(&self) -> Result<RawFd, Error> {
        match unsafe { ns_server_poll_fd(self.raw()) } {
            fd if fd >= 0 => Ok(fd),
            code => Err(check(code).unwrap_err()),
        }
    }

    pub fn run_once(&self, timeout: Option<Duration>) -> Result<(), Error> {
        let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i64);
        check(unsafe { ns_server_run_once(self.raw(), timeout) })
    }

    pub fn stop(&self) -> Result<(), Error> {
        check(unsafe { ns_server_stop(self.raw()) })
    }

    pub fn stop_within(&self, limit: Duration) -> Result<(), Error> {
        check(unsafe { ns_server_stop_within(self.raw(), limit.as_millis() as i64) })
    }

    pub fn request_stop(&self) {
        check(unsafe { ns_server_request_stop(self.raw()) }).unwrap();
    }

    pub fn wait(&self, limit: Option<Duration>) -> Result<(), Error> {
        let limit = limit.map_or(-1, |limit| limit.as_millis() as i64);
        check(unsafe { ns_server_wait(self.raw(), limit) })
    }

    pub fn quiesce(&self) -> Result<(), Error> {
        check(unsafe { ns_server_quiesce(self.raw()) })
    }

    pub fn request_quiesce(&self) -> Result<(), Status> {
        let code = unsafe { ns_server_request_quiesce(self.raw()) };
        check(code).map_err(|error| error.status())
    }

    pub fn wait_idle(&self, limit: Option<Duration>) -> Result<(), Error> {
        let limit = limit.map_or(-1, |limit| limit.as_millis() as i64);
        check(unsafe { ns_server_wait_idle(self.raw(), limit) })
    }

    pub fn is_ready(&self) -> bool {
        unsafe { ns_server_is_ready(self.raw()) != 0 }
    }

    pub fn listener_fd(&self, number: usize) -> Result<RawFd, Error> {
        match unsafe { ns_server_listener_fd(self.raw(), number as u32) } {
            fd if fd >= 0 => Ok(fd),
            code => Err(check(code).unwrap_err()),
        }
    }

    pub fn is_stopped(&self) -> bool {
        unsafe { ns_server_is_stopped(self.raw()) != 0 }
    }

    pub fn state(&self) -> State {
        state(unsafe { ns_server_state(self.raw()) })
    }

    pub fn port(&self) -> u16 {
        unsafe { ns_server_port(self.raw()) }
    }

    pub fn shutdown_port(&self) -> u16 {
        unsafe { ns_server_shutdown_port(self.raw()) }
    }

    pub fn address(&self) -> String {
        text_of(|buf, len| unsafe { ns_server_address(self.raw(), buf, len) })
    }

    pub fn add_service(&self, service: &str) -> Result<usize, Error> {
        let (service, mut error) = (c_text(service), null_mut());
        let number = unsafe { ns_server_add_service(self.raw(), service.as_ptr(), &mut error) };
        added(number, error)
    }

    pub fn set_service_proxy(&self, service: usize, to: ProxyProtocol) -> Result<(), Error> {
        let (service, mut error) = (service as u32, null_mut());
        let set =
            unsafe { ns_server_set_service_proxy(self.raw(), service, versions(to), &mut error) };
        added(set, error).map(drop)
    }

    pub fn service_address(&self, service: usize) -> String {
        let service = service as u32;
        text_of(|buf, len| unsafe { ns_server_service_address(self.raw(), service, buf, len) })
    }

    pub fn report(&self) -> String {
        text_of(|buf, len| unsafe { ns_server_report(self.raw(), buf, len) })
    }

    pub fn metrics(&self) -> String {
        text_of(|buf, len| unsafe { ns_server_metrics(self.raw(), buf, len) })
    }

    pub fn stats(&self) -> Stats {
        let mut raw: ns_stats = unsafe { std::mem::zeroed() };
        let code = unsafe { ns_server_stats(self.raw(), &mut raw, size_of::<ns_stats>()) };
        check(code).expect("stats");
        let mut stats = Stats::default();
        stats.state = state(raw.state as i32);
        stats.non_blocking = raw.non_blocking != 0;
        stats.threads = raw.threads;
        stats.active_threads = raw.active_threads;
        stats.port = raw.port as u16;
        stats.shutdown_port = raw.shutdown_port as u16;
        stats.uptime = Duration::from_millis(raw.uptime_ms);
        stats.accepted = raw.accepted;
        stats.attached = raw.attached;
        stats.adopted = raw.adopted;
        stats.refused = raw.refused;
        stats.open = raw.open;
        stats.waiting = raw.waiting;
        stats.detached = raw.detached;
        stats.drained = raw.drained;
        stats.cut = raw.cut;
        stats.bytes_in = raw.bytes_in;
        stats.bytes_out = raw.bytes_out;
        stats.handler_errors = raw.handler_errors;
        stats.peer_resets = raw.peer_resets;
        stats.accept_errors = raw.accept_errors;
        stats.handshakes = raw.handshakes;
        stats.handshake_failures = raw.handshake_failures;
        stats.closed.copy_from_slice(&raw.closed[..CloseReason::COUNT]);
        stats
    }

    pub fn thread_stats(&self, index: usize) -> Option<ThreadStats> {
        let mut raw: ns_thread_stats = unsafe { std::mem::zeroed() };
        let size = size_of::<ns_thread_stats>();
        let code = unsafe { ns_server_thread_stats(self.raw(), index as u32, &mut raw, size) };
        if code == Status::Invalid.code() {
            return None;
        }
        check(code).expect("thread stats");
        let mut stats = ThreadStats::default();
        stats.index = raw.index;
        stats.active = raw.active;
        stats.accepted = raw.accepted;
        stats.bytes_in = raw.bytes_in;
        stats.bytes_out = raw.bytes_out;
        stats.calls = raw.calls;
        stats.handler_errors = raw.handler_errors;
        Some(stats)
    }

    pub fn detach(&self, socket: &mut Socket<'_>) -> Result<OwnedSocket, Error> {
        let mut error = null_mut();
        let owned = unsafe { ns_detach(self.raw(), socket.raw, &mut error) };
        match owned.is_null() {
            false => Ok(OwnedSocket::new(owned)),
            true => Err(unsafe { Error::taken(error) }),
        }
    }

    pub fn attach(&self, socket: OwnedSocket) -> Result<ConnId, AttachError> {
        let mut error = null_mut();
        let id = unsafe { ns_attach(self.raw(), socket.raw(), &mut error) };
        match ConnId::from_u64(id) {
            Some(id) => {
                socket.forget();
                Ok(id)
            }
            None => Err(AttachError { error: unsafe { Error::taken(error) }, socket }),
        }
    }

    pub fn send(&self, id: ConnId, bytes: &[u8]) -> Result<(), Error> {
        check(unsafe { ns_server_send(self.raw(), id.get(), bytes.as_ptr().cast(), bytes.len()) })
    }

    pub fn broadcast(&self, ids: &[ConnId], bytes: &[u8]) -> Result<usize, Error> {
        let ids: Vec<u64> = ids.iter().map(|id| id.get()).collect();
        count(unsafe {
            let buf = bytes.as_ptr().cast();
            ns_server_broadcast(self.raw(), ids.as_ptr(), ids.len(), buf, bytes.len())
        })
    }

    pub fn broadcast_each(
        &self,
        ids: &[ConnId],
        bytes: &[u8],
    ) -> Result<Vec<Result<(), Status>>, Error> {
        let ids: Vec<u64> = ids.iter().map(|id| id.get()).collect();
        let mut statuses = vec![1; ids.len()];
        let accepted = count(unsafe {
            let (buf, out) = (bytes.as_ptr().cast(), statuses.as_mut_ptr());
            ns_server_broadcast_each(self.raw(), ids.as_ptr(), ids.len(), buf, bytes.len(), out)
        })?;
        assert_eq!(accepted, statuses.iter().filter(|status| **status == 0).count());
        let result = |code| match code {
            0 => Ok(()),
            code => Err(Status::from_code(code).expect("a status")),
        };
        Ok(statuses.into_iter().map(result).collect())
    }

    pub fn queued(&self, id: ConnId) -> Result<usize, Error> {
        count(unsafe { ns_server_queued(self.raw(), id.get()) })
    }

    pub fn shutdown(&self, id: ConnId, how: Shutdown) -> Result<(), Error> {
        let how = match how {
            Shutdown::Read => NS_SHUT_RD,
            Shutdown::Write => NS_SHUT_WR,
            Shutdown::Both => NS_SHUT_RDWR,
        };
        check(unsafe { ns_server_shutdown(self.raw(), id.get(), how) })
    }

    pub fn close(&self, id: ConnId) -> Result<(), Error> {
        check(unsafe { ns_server_close(self.raw(), id.get()) })
    }

    pub fn abort(&self, id: ConnId) -> Result<(), Error> {
        check(unsafe { ns_server_abort(self.raw(), id.get()) })
    }

    pub fn wake(&self, id: ConnId) -> Result<(), Error> {
        check(unsafe { ns_server_wake(self.raw(), id.get()) })
    }

    pub fn connections(&self) -> Result<Vec<ConnId>, Error> {
        unsafe extern "C-unwind" fn visit(id: ns_conn_id, ids: *mut c_void) -> i32 {
            // SAFETY: the vector below; the walk is synchronous.
            let ids: &mut Vec<ConnId> = unsafe { &mut *ids.cast() };
            ids.push(ConnId::from_u64(id).expect("an id"));
            0
        }
        let mut ids: Vec<ConnId> = Vec::new();
        let data = (&raw mut ids).cast();
        let visited = count(unsafe { ns_server_foreach(self.raw(), Some(visit), data) })?;
        assert_eq!(visited, ids.len());
        Ok(ids)
    }
}

fn count(number: i64) -> Result<usize, Error> {
    usize::try_from(number).map_err(|_| Error::of(number as i32))
}

fn state(number: i32) -> State {
    use State::{New, Quiescing, Running, Starting, Stopped, Stopping};
    let states = [New, Starting, Running, Stopping, Stopped, Quiescing];
    states.into_iter().find(|state| *state as i32 == number).expect("a state")
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        // A handler that still runs makes `free` time out; the server is valid until it succeeds.
        let start = Instant::now();
        loop {
            // SAFETY: the server is ours and not freed yet.
            match unsafe { ns_server_free(self.raw) } {
                0 => return,
                code if code == NS_ERR_TIMEOUT && start.elapsed() < Duration::from_secs(20) => {}
                _ if std::thread::panicking() => return,
                code => panic!("ns_server_free: {code}"),
            }
        }
    }
}
