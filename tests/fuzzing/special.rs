//! Calls that need more than arguments of their types.

use super::*;
use std::fs::File;

/// Calls that need more: which make or free an object, wait, or take a time that
/// something waits.
pub const SPECIAL: &[fn()] = &[
    config_new,
    config_new,
    config_time,
    config_free,
    tls_new,
    tls_new,
    tls_free,
    server_new,
    server_new,
    server_start,
    server_start,
    server_start,
    server_end,
    error_free,
    detach,
    attach,
    socket_free,
    release_fd,
    starttls,
    sendfile,
    sendfile,
    adopt,
    from_fd,
    watch,
    turn,
    turn,
    turn,
    turn,
    client_connect,
    client_connect,
    client_send,
    client_send,
    client_end,
];

fn config_new() {
    let config = ns_config_new();
    // SAFETY: an object of this world, as in all functions below.
    unsafe {
        ns_config_set_linger_timeout_ms(config, 1);
        ns_config_set_drain_timeout_ms(config, 1);
        ns_config_set_handshake_timeout_ms(config, 3);
        let kind = with(World::byte).unwrap_or(0);
        ns_config_set_non_blocking(config, i32::from(kind % 4 != 0));
        ns_config_set_max_thread(config, 1);
    }
    with(|w| w.configs.push(config));
}

/// What is waited for has to be short here.
fn config_time() {
    let (config, kind, time) =
        with(|w| (w.one(|w| &w.configs), w.byte(), w.of(&[0, 1, 3, u32::MAX, 1 << 31]))).unwrap();
    unsafe {
        match kind % 4 {
            0 => ns_config_set_linger_timeout_ms(config, time),
            1 => ns_config_set_drain_timeout_ms(config, time),
            2 if time != 0 => ns_config_set_handshake_timeout_ms(config, time),
            _ => ns_config_set_max_thread(config, time.min(3)),
        };
    }
}

/// Takes an object out of its list, now and then none.
fn taken<T>(list: fn(&mut World) -> &mut Vec<*mut T>) -> *mut T {
    with(|w| {
        let number = w.byte();
        let list = list(w);
        match list.len() {
            0 => null_mut(),
            _ if number >= 250 => null_mut(),
            len => list.swap_remove(number % len),
        }
    })
    .unwrap()
}

fn config_free() {
    let config = taken(|w| &mut w.configs);
    unsafe { ns_config_free(config) };
}

fn tls_new() {
    let tls = ns_tls_new();
    if with(World::byte).unwrap_or(0) % 4 != 0 && !tls.is_null() {
        let (chain, key) = (CHAIN.as_ptr().cast(), KEY.as_ptr().cast());
        unsafe {
            ns_tls_add_cert_pem(tls, null(), chain, CHAIN.len(), key, KEY.len(), null_mut());
        }
    }
    with(|w| w.tls.push(tls));
}

fn tls_free() {
    let tls = taken(|w| &mut w.tls);
    unsafe { ns_tls_free(tls) };
}

fn server_new() {
    let drawn = with(|w| {
        let handler: ns_handler_fn = if w.byte() >= 245 { None } else { Some(on_event) };
        let service: *const c_char = Draw::draw(w);
        let data: (*mut c_void, ns_drop_fn) = (null_mut(), Draw::draw(w));
        let error: *mut *mut ns_error = Draw::draw(w);
        (service, handler, data, w.one(|w| &w.configs), error)
    });
    let (service, handler, (data, drop), config, error) = drawn.unwrap();
    if config.is_null() {
        return;
    }
    let server = unsafe { ns_server_new(service, handler, data, drop, config, error) };
    with(|w| {
        w.end_call();
        if !server.is_null() {
            w.servers.push(server);
        }
    });
}

fn server_start() {
    let (server, flags, error) = with(|w| {
        let flags = w.of(&[NS_START_HOSTED, NS_START_HOSTED, NS_START_BACKGROUND, 3, 4, u32::MAX]);
        (w.one(|w| &w.servers), flags, Draw::draw(w))
    })
    .unwrap();
    unsafe { ns_server_start(server, flags, error) };
    with(World::end_call);
}

fn server_end() {
    let server = with(|w| w.one(|w| &w.servers)).unwrap();
    let kind = with(World::byte).unwrap();
    unsafe {
        match kind % 8 {
            0 => ns_server_stop(server),
            1 => ns_server_stop_within(server, 0),
            2 => ns_server_stop_within(server, -1),
            3 => ns_server_request_stop(server),
            4 => ns_server_wait_idle(server, 1),
            _ => {
                // One of another is not freed in a callback either: it would wait
                // for this thread where that is its host.
                let is_in_callback = with(|w| w.depth > 0).unwrap();
                let status = match is_in_callback {
                    true => ns_server_quiesce(server),
                    false => ns_server_free(server),
                };
                if !is_in_callback && status == NS_OK {
                    with(|w| w.servers.retain(|other| *other != server));
                }
                status
            }
        }
    };
}

fn error_free() {
    let error = taken(|w| &mut w.errors);
    unsafe { ns_error_free(error) };
}

fn detach() {
    let Some(Some((server, socket, error))) = with(|w| {
        let socket = w.borrowed.last().copied().unwrap_or(null_mut());
        let server = w.running.last().copied()?;
        Some((server, socket, Draw::draw(w)))
    }) else {
        return;
    };
    let owned = unsafe { ns_detach(server, socket, error) };
    with(|w| {
        w.end_call();
        if !owned.is_null() {
            w.owned.push(owned);
        }
    });
}

fn attach() {
    let (server, error) = with(|w| (w.one(|w| &w.servers), Draw::draw(w))).unwrap();
    let owned = taken(|w| &mut w.owned);
    let id = unsafe { ns_attach(server, owned, error) };
    with(|w| {
        w.end_call();
        id.keep(w);
        if id == 0 && !owned.is_null() {
            w.owned.push(owned);
        }
    });
}

fn socket_free() {
    let owned = taken(|w| &mut w.owned);
    unsafe { ns_socket_free(owned) };
}

fn release_fd() {
    let owned = taken(|w| &mut w.owned);
    let fd = unsafe { ns_socket_release_fd(owned) };
    match fd {
        // SAFETY: it is ours.
        0.. => drop(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ if owned.is_null() => {}
        _ => drop(with(|w| w.owned.push(owned))),
    }
}

/// Of a socket in a callback alone: an owned one waits ten seconds for a handshake.
fn starttls() {
    let drawn = with(|w| {
        let socket = w.borrowed.last().copied().unwrap_or(null_mut());
        (socket, Draw::draw(w), Draw::draw(w), Draw::draw(w))
    });
    let (socket, tls, ahead, len) = drawn.unwrap();
    // SAFETY: as above.
    unsafe { ns_socket_starttls(socket, tls, ahead, len) };
    with(World::end_call);
}

/// Sends a file, a folder, a socket, or what nobody has.
fn sendfile() {
    const OFFSETS: [u64; 6] = [0, 1, 20_000, 1 << 40, 1 << 63, u64::MAX];
    const LENGTHS: [u64; 6] = [0, 1, 500, 20_000, 200_000, u64::MAX];
    let drawn = with(|w| (w.byte(), Draw::draw(w), w.of(&OFFSETS), w.of(&LENGTHS)));
    let (kind, socket, offset, len) = drawn.unwrap();
    let file = match kind {
        0..160 => File::open("/proc/self/exe").ok().map(File::into_raw_fd),
        160..190 => File::open("/").ok().map(File::into_raw_fd),
        190..220 => UnixStream::pair().ok().map(|(ours, _)| ours.into_raw_fd()),
        _ => None,
    };
    let nobody = if kind % 2 == 0 { -1 } else { c_int::MAX };
    // SAFETY: as above.
    unsafe { ns_socket_sendfile(socket, file.unwrap_or(nobody), offset, len) };
    close(file.unwrap_or(-1));
    with(World::end_call);
}

/// One end of a pair, or no socket.
fn descriptor() -> c_int {
    if with(World::byte).unwrap() >= 230 {
        return -1;
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    with(|w| w.pairs.push(theirs));
    ours.into_raw_fd()
}

fn close(fd: c_int) {
    if fd >= 0 {
        // SAFETY: it is ours.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

fn adopt() {
    let fd = descriptor();
    let (server, error) = with(|w| (w.one(|w| &w.servers), Draw::draw(w))).unwrap();
    let id = unsafe { ns_server_adopt(server, fd, null_mut(), None, error) };
    with(|w| {
        w.end_call();
        id.keep(w);
    });
    if id == 0 {
        close(fd);
    }
}

fn from_fd() {
    let fd = descriptor();
    let error = with(Draw::draw).unwrap();
    let owned = unsafe { ns_socket_from_fd(fd, error) };
    with(World::end_call);
    if owned.is_null() {
        return close(fd);
    }
    with(|w| w.owned.push(owned));
}

fn watch() {
    let drawn = with(|w| {
        let pair = w.pairs.last().map_or(-1, AsRawFd::as_raw_fd);
        (w.one(|w| &w.servers), Draw::draw(w), pair, Draw::draw(w), Draw::draw(w), Draw::draw(w))
    });
    let (server, number, fd, events, function, error) = drawn.unwrap();
    let id =
        unsafe { ns_server_watch(server, number, fd, events, function, null_mut(), None, error) };
    with(|w| {
        w.end_call();
        id.keep(w);
    });
}

fn turn() {
    let (server, time) = with(|w| (w.one(|w| &w.servers), w.of(&[0, 0, 0, 1, -2]))).unwrap();
    unsafe { ns_server_run_once(server, time) };
}

fn client_connect() {
    let server = with(|w| w.one(|w| &w.servers)).unwrap();
    let port = unsafe { ns_server_port(server) };
    if port == 0 || with(|w| w.clients.len()).unwrap() >= 4 {
        return;
    }
    if let Ok(client) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
        client.set_nonblocking(true).unwrap();
        with(|w| w.clients.push(client));
    }
}

fn client_send() {
    with(|w| {
        let (number, size) = (w.byte(), w.of(&[1, 5, 300, 5000]));
        let count = w.clients.len().max(1);
        if let Some(client) = w.clients.get_mut(number % count) {
            // As many as go.
            let _ = client.write(&vec![number as u8; size]);
            let _ = client.read(&mut [0; 4096]);
        }
    });
}

fn client_end() {
    with(|w| {
        let number = w.byte();
        if !w.clients.is_empty() {
            let at = number % w.clients.len();
            w.clients.swap_remove(at);
        }
    });
}
