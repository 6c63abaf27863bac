//! Random calls of the C functions, from a fuzzer's input: objects in each state,
//! sizes, NULLs, wrong numbers, also in the callbacks of a hosted server. What the
//! contract of the header forbids is left out: freed handles, buffers that are
//! shorter than their size. Each buffer is as long as the call says, so that
//! AddressSanitizer sees a byte too much.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr::{null, null_mut};

use net_server::ffi::*;

/// How deep callbacks make calls, and how many calls one input makes.
const DEEPEST: usize = 3;
const MOST_CALLS: usize = 60;

#[path = "special.rs"]
mod special;

struct World {
    input: Vec<u8>,
    at: usize,
    calls: usize,
    depth: usize,
    configs: Vec<*mut ns_config>,
    tls: Vec<*mut ns_tls>,
    servers: Vec<*mut ns_server>,
    owned: Vec<*mut ns_socket>,
    borrowed: Vec<*mut ns_socket>,
    errors: Vec<*mut ns_error>,
    ids: Vec<u64>,
    /// Servers whose callback runs, which are not freed in it.
    running: Vec<*mut ns_server>,
    clients: Vec<TcpStream>,
    pairs: Vec<UnixStream>,
    /// What the call that is being made points to.
    buffers: Vec<Vec<u64>>,
    bytes: Vec<Vec<u8>>,
    slot: Box<*mut ns_error>,
    size: Option<usize>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Looks at the world of this thread, which those of a server do not have. No call
/// is made meanwhile.
fn with<R>(look: impl FnOnce(&mut World) -> R) -> Option<R> {
    WORLD.with(|world| world.borrow_mut().as_mut().map(look))
}

const TEXTS: [&CStr; 22] = [
    c"127.0.0.1:0", c"127.0.0.1:0", c"0", c"", c"[::1]:0", c"unix:@ns-fuzz", c"localhost:0",
    c"127.0.0.1:1", c"unix:/nonexistent/socket", c"fd:99999", c"systemd", c"unix", c"10.0.0.0/8",
    c"::/0", c"name", c"*.example.org", c"-----BEGIN CERTIFICATE-----", c"\xff\xfe",
    c"\n\t", c"tls", c"a name that is longer than sixteen bytes",
    c"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];
const SIZES: [usize; 16] =
    [0, 1, 2, 7, 8, 9, 15, 16, 64, 100, 255, 256, 1000, 4096, 20_000, 65_536];
const CHAIN: &[u8] = include_bytes!("../data/server.pem");
const KEY: &[u8] = include_bytes!("../data/server-key.pem");

impl World {
    fn new(input: &[u8]) -> World {
        World {
            input: input.to_vec(),
            at: 0,
            calls: 0,
            depth: 0,
            configs: vec![],
            tls: vec![],
            servers: vec![],
            owned: vec![],
            borrowed: vec![],
            errors: vec![],
            ids: vec![],
            running: vec![],
            clients: vec![],
            pairs: vec![],
            buffers: vec![],
            bytes: vec![],
            slot: Box::new(null_mut()),
            size: None,
        }
    }

    fn is_over(&self) -> bool {
        self.at >= self.input.len() || self.calls >= MOST_CALLS
    }

    fn byte(&mut self) -> usize {
        let byte = self.input.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte.into()
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.byte() % choices.len()]
    }

    /// One of these objects, now and then NULL.
    fn one<T>(&mut self, list: fn(&World) -> &Vec<*mut T>) -> *mut T {
        let number = self.byte();
        match list(self).len() {
            0 => null_mut(),
            _ if number >= 250 => null_mut(),
            len => list(self)[number % len],
        }
    }

    /// The number of elements of what the next arguments are.
    fn size(&mut self) -> usize {
        let size = self.of(&SIZES);
        *self.size.get_or_insert(size)
    }

    fn array<T>(&mut self) -> *mut T {
        let size = self.size();
        let kind = self.byte();
        if kind >= 240 {
            return null_mut();
        }
        if align_of::<T>() == 1 {
            // A text, a certificate or a key is now and then what it should be.
            let content = match kind {
                200..=219 => CHAIN,
                220..=239 => KEY,
                _ => &[],
            };
            let mut bytes = content[..content.len().min(size)].to_vec();
            bytes.resize(size, kind as u8);
            if !content.is_empty() {
                bytes = content.to_vec();
                self.size = Some(content.len());
            }
            self.bytes.push(bytes);
            return self.bytes.last_mut().unwrap().as_mut_ptr().cast();
        }
        self.buffers.push(vec![0; (size * size_of::<T>()).div_ceil(8).max(1)]);
        self.buffers.last_mut().unwrap().as_mut_ptr().cast()
    }

    /// An output structure of so many bytes as the next argument says.
    fn structure<T>(&mut self) -> *mut T {
        let size = self.size();
        if self.byte() >= 240 {
            return null_mut();
        }
        self.buffers.push(vec![0; size.div_ceil(8).max(1)]);
        self.buffers.last_mut().unwrap().as_mut_ptr().cast()
    }

    /// Ends a call: its buffers go, and its error is kept.
    fn end_call(&mut self) {
        self.buffers.clear();
        self.bytes.clear();
        self.size = None;
        let error = std::mem::replace(&mut *self.slot, null_mut());
        if !error.is_null() {
            self.errors.push(error);
        }
    }
}

// -- arguments and results --------------------------------------------------------

/// An argument, taken from the input.
trait Draw {
    fn draw(w: &mut World) -> Self;
}

macro_rules! draw {
    ($($type:ty, $w:ident => $value:expr;)*) => {
        $(impl Draw for $type {
            fn draw($w: &mut World) -> Self { $value }
        })*
    };
}

draw! {
    *mut ns_config, w => w.one(|w| &w.configs);
    *const ns_config, w => w.one(|w| &w.configs);
    *mut ns_tls, w => w.one(|w| &w.tls);
    *const ns_tls, w => w.one(|w| &w.tls);
    *mut ns_server, w => w.one(|w| &w.servers);
    *const ns_server, w => w.one(|w| &w.servers);
    *mut ns_socket, w => draw_socket(w);
    *const ns_socket, w => draw_socket(w);
    *const ns_error, w => w.one(|w| &w.errors);
    *const c_char, w => if w.byte() >= 245 { null() } else { w.of(&TEXTS).as_ptr() };
    *mut *mut ns_error, w => if w.byte() & 1 == 0 { null_mut() } else { &mut *w.slot };
    *mut c_void, w => w.array::<u8>().cast();
    *const c_void, w => w.array::<u8>().cast();
    *mut c_char, w => w.array();
    // As many as any call writes: one for each id.
    *mut i32, w => {
        w.buffers.push(vec![0; 65_536 / 2]);
        w.buffers.last_mut().unwrap().as_mut_ptr().cast()
    };
    *mut u32, w => w.array();
    *mut ns_stats, w => w.structure();
    *mut ns_thread_stats, w => w.structure();
    *mut ns_tls_info, w => w.structure();
    *const ns_conn_id, w => {
        let array = w.array::<u64>();
        if !array.is_null() {
            let ids = std::mem::take(&mut w.ids);
            let buffer = w.buffers.last_mut().unwrap();
            buffer.iter_mut().zip(ids.iter().cycle()).for_each(|(to, from)| *to = *from);
            w.ids = ids;
        }
        array
    };
    *const *const c_void, w => draw_pointers(w);
    *const *const c_char, w => draw_texts(w);
    *const usize, w => {
        let array = w.array::<u64>();
        if !array.is_null() {
            let len = w.byte() % 65;
            w.buffers.last_mut().unwrap().fill(len as u64);
        }
        array.cast()
    };
    usize, w => w.size.take().unwrap_or_else(|| {
        w.of(&[0, 1, 64, 4096, 65_536, 1 << 20, (1 << 31) - 1, 1 << 31, usize::MAX])
    });
    i32, w => w.of(&[0, 1, 2, 3, -1, 4, 7, 13, -13, 100, 0x20, 0xEA, 255, 256, i32::MIN, i32::MAX]);
    u32, w => w.of(&[0, 1, 2, 3, 5, 10, 32, 128, 129, 1000, 0o660, 65_536, u32::MAX]);
    u64, w => match w.byte() {
        number if number >= 220 => number as u64 * 0x0101_0101_0101_0101,
        number => w.ids.get(number % w.ids.len().max(1)).copied().unwrap_or(0),
    };
    i64, w => w.of(&[0, 0, 1, 2, -2, i64::MIN, i64::MAX]);
}

fn draw_socket(w: &mut World) -> *mut ns_socket {
    let number = w.byte();
    let borrowed = w.borrowed.last().copied().unwrap_or(null_mut());
    if number < 150 && !borrowed.is_null() {
        return borrowed;
    }
    let socket = w.one(|w| &w.owned);
    // An owned socket blocks.
    // SAFETY: it is an object of this world, and no callback comes of this.
    unsafe { ns_socket_set_io_timeout_ms(socket, 1) };
    socket
}

fn draw_pointers(w: &mut World) -> *const *const c_void {
    let array = w.array::<u64>();
    if !array.is_null() {
        let to = vec![7u8; 64];
        let address = to.as_ptr().addr() as u64;
        w.buffers.last_mut().unwrap().fill(address);
        w.bytes.push(to);
    }
    array.cast()
}

fn draw_texts(w: &mut World) -> *const *const c_char {
    let array = w.array::<u64>();
    if !array.is_null() {
        let text = w.of(&TEXTS).as_ptr().addr() as u64;
        w.buffers.last_mut().unwrap().fill(text);
    }
    array.cast()
}

/// A result, of which the world keeps what later calls use.
trait Keep {
    fn keep(self, w: &mut World);
}

macro_rules! forgotten {
    ($($type:ty)*) => { $(impl Keep for $type { fn keep(self, _: &mut World) {} })* };
}

forgotten! { () i32 u16 u32 i64 usize *mut c_void *const ns_config }

impl Keep for u64 {
    fn keep(self, w: &mut World) {
        if self != 0 {
            w.ids.push(self);
        }
    }
}

impl Keep for *const c_char {
    fn keep(self, _: &mut World) {
        if !self.is_null() {
            // SAFETY: the library returns texts that end with a NUL.
            assert!(unsafe { CStr::from_ptr(self) }.to_str().is_ok());
        }
    }
}

trait Call {
    fn call(self);
}

macro_rules! call {
    ($($name:ident)*) => {
        impl<$($name: Draw,)* R: Keep> Call for unsafe extern "C" fn($($name),*) -> R {
            #[allow(non_snake_case, unused_variables)]
            fn call(self) {
                let Some(($($name,)*)) = with(|w| ($($name::draw(w),)*)) else { return };
                // SAFETY: the arguments keep the contract of the header.
                let result = unsafe { self($($name),*) };
                with(|w| {
                    result.keep(w);
                    w.end_call();
                });
            }
        }
    };
}

call! {}
call! { A }
call! { A B }
call! { A B C }
call! { A B C D }
call! { A B C D E }
call! { A B C D E F }
call! { A B C D E F G }
call! { A B C D E F G H }

// -- callbacks --------------------------------------------------------------------

/// Makes some calls in a callback and returns what it returns.
fn in_callback(server: *mut ns_server, socket: *mut ns_socket) -> i32 {
    let count = with(|w| {
        w.borrowed.push(socket);
        w.running.push(server);
        w.depth += 1;
        if w.depth > DEEPEST {
            0
        } else {
            w.byte() % 5
        }
    });
    let Some(count) = count else { return 0 };
    for _ in 0..count {
        step();
    }
    with(|w| {
        w.borrowed.pop();
        w.running.pop();
        w.depth -= 1;
        w.of(&[0, 0, 0, 1, -1, -7, -13, i32::MIN])
    })
    .unwrap_or(0)
}

unsafe extern "C-unwind" fn on_event(
    server: *mut ns_server,
    socket: *mut ns_socket,
    _: *mut c_void,
) -> i32 {
    let mut buffer = [0u8; 512];
    let is_here = with(|_| ()).is_some();
    loop {
        // SAFETY: the socket of this callback, and a buffer of this size.
        let n = unsafe { ns_socket_recv(socket, buffer.as_mut_ptr().cast(), buffer.len()) };
        if n <= 0 {
            if n == 0 {
                // SAFETY: as above.
                unsafe { ns_socket_close(socket) };
            }
            break;
        }
        // SAFETY: as above.
        unsafe { ns_socket_send(socket, buffer.as_ptr().cast(), n as usize) };
        if is_here {
            break;
        }
    }
    in_callback(server, socket)
}

unsafe extern "C-unwind" fn on_hook(
    server: *mut ns_server,
    socket: *mut ns_socket,
    _: *mut c_void,
) -> i32 {
    in_callback(server, socket)
}

unsafe extern "C-unwind" fn on_exception(
    server: *mut ns_server,
    socket: *mut ns_socket,
    error: *const ns_error,
    _: *mut c_void,
) -> i32 {
    // SAFETY: the error is this callback's.
    unsafe {
        assert!(!ns_error_message(error).is_null());
        ns_error_payload(error);
    }
    in_callback(server, socket)
}

unsafe extern "C-unwind" fn on_start(server: *mut ns_server, _: *mut c_void) -> i32 {
    in_callback(server, null_mut()).max(0)
}

unsafe extern "C-unwind" fn on_stop(server: *mut ns_server, _: *mut c_void) {
    in_callback(server, null_mut());
}

unsafe extern "C-unwind" fn on_thread(_: *mut ns_server, _: i32, _: u32, _: *mut c_void) -> i32 {
    0
}

unsafe extern "C-unwind" fn on_thread_stop(_: *mut ns_server, _: i32, _: u32, _: *mut c_void) {}

unsafe extern "C-unwind" fn on_close(
    server: *mut ns_server,
    socket: *mut ns_socket,
    _: i32,
    _: *mut c_void,
) {
    in_callback(server, socket);
}

unsafe extern "C-unwind" fn on_each(id: ns_conn_id, _: *mut c_void) -> i32 {
    with(|w| w.ids.push(id));
    0
}

unsafe extern "C-unwind" fn on_log(_: i32, _: ns_conn_id, text: *const c_char, _: *mut c_void) {
    // SAFETY: the text is this callback's.
    assert!(unsafe { CStr::from_ptr(text) }.to_str().is_ok());
}

unsafe extern "C-unwind" fn on_watch(
    server: *mut ns_server,
    _: u64,
    _: i32,
    _: u32,
    _: *mut c_void,
) -> i32 {
    in_callback(server, null_mut())
}

unsafe extern "C-unwind" fn on_timer(server: *mut ns_server, _: u64, _: *mut c_void) -> i32 {
    in_callback(server, null_mut())
}

unsafe extern "C-unwind" fn on_drop(_: *mut c_void) {}

macro_rules! functions {
    ($($type:ty: $function:ident;)*) => {
        $(impl Draw for $type {
            fn draw(w: &mut World) -> Self {
                if w.byte() >= 230 { None } else { Some($function) }
            }
        })*
    };
}

functions! {
    ns_handler_fn: on_hook;
    ns_exception_fn: on_exception;
    ns_start_fn: on_start;
    ns_stop_fn: on_stop;
    ns_thread_start_fn: on_thread;
    ns_thread_stop_fn: on_thread_stop;
    ns_close_fn: on_close;
    ns_foreach_fn: on_each;
    ns_log_fn: on_log;
    ns_watch_fn: on_watch;
    ns_timer_fn: on_timer;
    ns_drop_fn: on_drop;
}

// -- calls ------------------------------------------------------------------------

macro_rules! plain {
    ($($name:ident($($_:tt)*);)*) => {
        &[$(|| Call::call($name as unsafe extern "C" fn($($_),*) -> _)),*]
    };
}

/// The calls that need nothing but arguments of their types.
const PLAIN: &[fn()] = plain! {
    ns_socket_peer(_ _ _); ns_socket_local(_ _ _); ns_socket_peer_addr(_ _ _);
    ns_socket_local_addr(_ _ _); ns_server_connect(_ _ _ _ _ _);
    ns_config_set_exception_handler(_ _ _ _); ns_config_set_shutdown_handler(_ _ _ _);
    ns_config_set_on_start(_ _ _ _); ns_config_set_on_stop(_ _ _ _);
    ns_config_set_on_quiesce(_ _ _ _); ns_config_set_on_thread_start(_ _ _ _);
    ns_config_set_on_thread_stop(_ _ _ _); ns_config_set_on_open(_ _ _ _);
    ns_config_set_on_close(_ _ _ _); ns_config_set_on_drain(_ _ _ _);
    ns_config_set_on_timeout(_ _ _ _); ns_config_set_on_wake(_ _ _ _); ns_server_send(_ _ _ _);
    ns_server_close(_ _); ns_server_abort(_ _); ns_server_wake(_ _);
    ns_server_broadcast(_ _ _ _ _); ns_server_broadcast_each(_ _ _ _ _ _);
    ns_server_queued(_ _); ns_server_shutdown(_ _ _); ns_server_foreach(_ _ _);
    ns_close_reason_name(_); ns_error_status(_); ns_error_os_code(_); ns_error_handler_code(_);
    ns_error_message(_); ns_error_payload(_); ns_status_name(_); ns_status_message(_);
    ns_config_set_max_per_address(_ _); ns_config_max_per_address(_);
    ns_config_set_accept_rate_per_address(_ _); ns_config_accept_rate_per_address(_);
    ns_config_set_accept_burst_per_address(_ _); ns_config_accept_burst_per_address(_);
    ns_config_set_ipv4_prefix(_ _); ns_config_ipv4_prefix(_); ns_config_set_ipv6_prefix(_ _);
    ns_config_ipv6_prefix(_); ns_config_set_send_limit_total(_ _);
    ns_config_send_limit_total(_); ns_config_set_logger(_ _ _ _ _);
    ns_config_set_proxy_protocol(_ _); ns_config_proxy_protocol(_);
    ns_config_add_trusted_proxy(_ _); ns_config_trusted_proxies(_ _ _);
    ns_config_set_proxy_timeout_ms(_ _); ns_config_proxy_timeout_ms(_);
    ns_config_set_proxy_others(_ _); ns_config_proxy_others(_);
    ns_server_set_service_proxy(_ _ _ _); ns_socket_transport_peer(_ _ _);
    ns_socket_proxy_tlv(_ _ _ _); ns_server_quiesce(_); ns_server_request_quiesce(_);
    ns_server_is_ready(_); ns_server_listener_fd(_ _); ns_raise(_ _ _);
    ns_raise_with(_ _ _ _ _); ns_server_request_stop(_); ns_server_poll_fd(_);
    ns_server_is_stopped(_); ns_server_state(_); ns_server_port(_); ns_server_shutdown_port(_);
    ns_server_address(_ _ _); ns_server_config(_); ns_server_context(_);
    ns_server_set_context(_ _ _); ns_server_add_service(_ _ _);
    ns_server_add_service_tls(_ _ _ _); ns_server_reload_service_tls(_ _ _ _);
    ns_server_service_address(_ _ _ _); ns_config_max_thread(_); ns_config_set_max_retry(_ _);
    ns_config_max_retry(_); ns_config_set_retry_interval_ms(_ _);
    ns_config_retry_interval_ms(_); ns_config_set_max_waiting(_ _); ns_config_max_waiting(_);
    ns_config_set_non_blocking(_ _); ns_config_non_blocking(_); ns_config_set_use_ipv6(_ _);
    ns_config_use_ipv6(_); ns_config_set_reuse_port(_ _); ns_config_reuse_port(_);
    ns_config_set_lend_listeners(_ _); ns_config_lend_listeners(_);
    ns_config_set_thread_name(_ _); ns_config_thread_name(_); ns_config_stack_size(_);
    ns_config_set_unix_mode(_ _); ns_config_unix_mode(_); ns_config_set_max_connections(_ _);
    ns_config_max_connections(_); ns_config_set_backlog(_ _); ns_config_backlog(_);
    ns_config_handshake_timeout_ms(_); ns_config_set_max_handshakes(_ _);
    ns_config_max_handshakes(_); ns_config_set_idle_timeout_ms(_ _);
    ns_config_idle_timeout_ms(_); ns_config_set_io_timeout_ms(_ _); ns_config_io_timeout_ms(_);
    ns_config_set_write_timeout_ms(_ _); ns_config_write_timeout_ms(_);
    ns_config_linger_timeout_ms(_); ns_config_drain_timeout_ms(_);
    ns_config_set_keep_alive_ms(_ _); ns_config_keep_alive_ms(_); ns_config_set_no_delay(_ _);
    ns_config_no_delay(_); ns_config_set_high_water_mark(_ _); ns_config_high_water_mark(_);
    ns_config_set_low_water_mark(_ _); ns_config_low_water_mark(_);
    ns_config_set_send_limit(_ _); ns_config_send_limit(_); ns_config_set_shutdown_port(_ _);
    ns_config_shutdown_port(_); ns_config_set_tls(_ _); ns_config_clear_tls(_);
    ns_socket_sendv(_ _ _ _); ns_socket_flush(_); ns_socket_cork(_); ns_socket_uncork(_);
    ns_socket_shutdown(_ _); ns_socket_close(_); ns_socket_abort(_); ns_socket_is_closed(_);
    ns_socket_id(_); ns_socket_fd(_); ns_socket_service(_); ns_socket_peer_credentials(_ _ _ _);
    ns_socket_queued(_); ns_socket_os_error(_); ns_socket_set_timer_ms(_ _);
    ns_socket_set_io_timeout_ms(_ _); ns_socket_pause(_); ns_socket_resume(_);
    ns_socket_user_data(_); ns_socket_set_user_data(_ _ _); ns_server_stats(_ _ _);
    ns_server_thread_stats(_ _ _ _); ns_server_report(_ _ _); ns_server_metrics(_ _ _);
    ns_server_watch_change(_ _ _); ns_server_unwatch(_ _); ns_server_timer(_ _ _ _ _ _ _ _);
    ns_server_timer_cancel(_ _); ns_server_post(_ _ _ _ _); ns_tls_add_cert_file(_ _ _ _ _);
    ns_tls_add_cert_pem(_ _ _ _ _ _ _); ns_tls_add_cert_der(_ _ _ _ _ _ _ _);
    ns_tls_set_client_ca_file(_ _ _ _); ns_tls_set_client_ca_pem(_ _ _ _ _);
    ns_tls_set_alpn(_ _ _); ns_tls_set_min_version(_ _); ns_tls_set_tickets(_ _);
    ns_tls_set_ticket_keys(_ _ _); ns_server_reload_tls(_ _ _);
    ns_socket_tls_info(_ _ _); ns_socket_tls_peer_certificate(_ _ _);
    ns_socket_tls_peer_subject(_ _ _); ns_socket_recv(_ _ _); ns_socket_send(_ _ _);
    ns_version_string(); ns_version_number(); ns_has_feature(_);
};

/// One call, unless the input is at its end.
fn step() {
    let chosen = with(|w| {
        if w.is_over() {
            return None;
        }
        w.calls += 1;
        let number = w.byte();
        // The special ones come as often as all others.
        Some(match number & 1 {
            0 => special::SPECIAL[number / 2 % special::SPECIAL.len()],
            _ => {
                let number = number / 2 * 256 + w.byte();
                PLAIN[number % PLAIN.len()]
            }
        })
    });
    if let Some(Some(call)) = chosen {
        call();
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Makes the calls of an input, then frees all. No descriptor stays.
pub fn target(data: &[u8]) {
    let before = descriptors();
    WORLD.with(|world| *world.borrow_mut() = Some(World::new(data)));
    while !with(|w| w.is_over()).unwrap() {
        step();
    }
    with(|w| {
        // No more calls in the callbacks of the ends.
        w.at = w.input.len();
        w.clients.clear();
        w.pairs.clear();
    });
    let take = |list: fn(&mut World) -> &mut Vec<*mut ns_server>| {
        with(|w| std::mem::take(list(w))).unwrap()
    };
    for server in take(|w| &mut w.servers) {
        unsafe {
            ns_server_stop_within(server, 0);
            assert_eq!(ns_server_free(server), NS_OK);
        }
    }
    let world = WORLD.with(|world| world.borrow_mut().take()).unwrap();
    unsafe {
        world.owned.iter().for_each(|owned| ns_socket_free(*owned));
        world.errors.iter().for_each(|error| ns_error_free(*error));
        world.configs.iter().for_each(|config| ns_config_free(*config));
        world.tls.iter().for_each(|tls| ns_tls_free(*tls));
    }
    drop(world);
    assert_eq!(descriptors(), before);
}
