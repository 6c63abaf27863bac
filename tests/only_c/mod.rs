//! Tests that only C programs can make: right calls and wrong ones.

use crate::api::{Hooks, Server, Status};
use crate::support::*;
use net_server::ffi::*;
use std::ffi::{c_char, c_void, CStr};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::Arc;

// SAFETY of all the calls below: pointers are NULL on purpose, or from the library and alive.

unsafe extern "C-unwind" fn nothing(_: *mut ns_server, _: *mut ns_socket, _: *mut c_void) -> i32 {
    0
}

/// E8: A borrowed socket used on its loop outside of its callbacks is NS_ERR_NOT_IN_HANDLER.
#[test]
fn a_borrowed_socket_outside_of_its_callbacks() {
    isolated(|| {
        let kept: Arc<AtomicPtr<ns_socket>> = Arc::default();
        let (keep, use_it) = (kept.clone(), kept.clone());
        let (log, results) = events();
        let hooks = Hooks::new(move |server: &Server, socket| {
            if text(socket)? != "use the other" {
                return Ok(());
            }
            let other = use_it.load(Ordering::SeqCst);
            log.add(unsafe {
                let mut buffer = [0u8; 8];
                let mut error = null_mut();
                let detached = ns_detach(server.raw(), other, &mut error);
                let detach = ns_error_status(error);
                ns_error_free(error);
                assert!(detached.is_null());
                [
                    ns_socket_recv(other, buffer.as_mut_ptr().cast(), 8) as i32,
                    ns_socket_send(other, b"x".as_ptr().cast(), 1),
                    ns_socket_shutdown(other, NS_SHUT_WR),
                    ns_socket_close(other),
                    ns_socket_abort(other),
                    ns_socket_pause(other),
                    ns_socket_resume(other),
                    ns_socket_set_timer_ms(other, 1),
                    ns_socket_set_user_data(other, null_mut(), None),
                    detach,
                ]
            });
            Ok(())
        })
        .on_open(move |_, socket| {
            let first = null_mut();
            let _ = keep.compare_exchange(first, socket.raw(), Ordering::SeqCst, Ordering::SeqCst);
            Ok(())
        });
        let server = start(non_blocking(1), hooks);
        let mut first = Client::connect(&server);
        eventually("it is open", || !kept.load(Ordering::SeqCst).is_null());
        let _second = Client::connect(&server).saying("use the other");
        assert_eq!(results.next(), [Status::NotInHandler.code(); 10]);
        first.send("unharmed");
        eventually("it was served", || server.stats().bytes_in > 20);
        assert_eq!(server.stats().open, 2);
    });
}

/// L15: `ns_server_free` in a callback is NS_ERR_BUSY, and does nothing.
#[test]
fn free_in_a_callback_is_busy() {
    isolated(|| {
        for config in both_modes() {
            let (log, results) = events();
            let others = [log.clone(), log.clone(), log.clone(), log.clone()];
            let [on_start, on_stop, on_open, on_close] = others;
            let free = |server: &Server| unsafe { ns_server_free(server.raw()) };
            let hooks = Hooks::new(move |server: &Server, socket| {
                log.add(free(server));
                text(socket)?;
                socket.close();
                Ok(())
            })
            .on_start(move |server| {
                on_start.add(free(server));
                Ok(())
            })
            .on_open(move |server, _| {
                on_open.add(free(server));
                Ok(())
            })
            .on_close(move |server, _, _| on_close.add(free(server)))
            .on_stop(move |server| on_stop.add(free(server)));
            let server = start(config, hooks);
            let mut client = Client::connect(&server).saying("x");
            client.expect_gone();
            drop(client);
            wait_idle(&server);
            server.stop().unwrap();
            assert_eq!(results.drain(), [Status::Busy.code(); 5]);
        }
    });
}

/// L16: A handler that never returns makes `ns_server_free` return NS_ERR_TIMEOUT; the server stays
/// valid, and can be freed when it has returned.
#[test]
fn free_times_out_while_a_handler_runs() {
    isolated(|| {
        for config in both_modes() {
            let gate = Gate::new();
            let server = start(config.drain_timeout(ms(50)), answer_behind(&gate));
            let _client = Client::connect(&server).saying("x");
            gate.reached_by(1);
            assert_eq!(unsafe { ns_server_free(server.raw()) }, NS_ERR_TIMEOUT);
            assert_eq!(server.stats().state as i32, NS_STATE_STOPPING);
            gate.open();
            drop(server);
        }
    });
}

/// G1, G2: Every drop function runs exactly once: data of connections, then callbacks, then the
/// context.
#[test]
fn drop_functions_run_once_and_in_order() {
    static ORDER: AtomicUsize = AtomicUsize::new(0);
    unsafe extern "C-unwind" fn drop_context(data: *mut c_void) {
        let data = unsafe { Arc::from_raw(data.cast::<AtomicUsize>()) };
        data.store(ORDER.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
    }
    struct Mark(Arc<AtomicUsize>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.store(ORDER.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
    }
    isolated(|| {
        let [connection, callbacks, context] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let mark = connection.clone();
        let held = Mark(callbacks.clone());
        let hooks = Hooks::new(move |_, socket| {
            let _ = &held;
            text(socket)?;
            socket.set_user_data(Mark(mark.clone()));
            socket.send(b"set")
        })
        .on_stop(|_| {});
        let server = unstarted(non_blocking(1), hooks);
        let data = Arc::into_raw(context.clone()).cast_mut().cast();
        unsafe {
            assert_eq!(ns_server_set_context(server.raw(), data, Some(drop_context)), NS_OK);
            assert_eq!(ns_server_context(server.raw()), data);
        }
        server.start_background().unwrap();
        let mut client = Client::connect(&server).saying("x");
        client.expect("set");
        drop(server);
        let order = [connection, callbacks, context].map(|mark| mark.load(Ordering::SeqCst));
        assert_eq!(order, [1, 2, 3]);
    });
}

/// O4: `new` takes a reference to the config: the caller may free its own immediately; while it is
/// in use it cannot be changed.
#[test]
fn the_server_has_its_own_reference_to_the_config() {
    isolated(|| unsafe {
        let config = ns_config_new();
        assert_eq!(ns_config_set_max_thread(config, 7), NS_OK);
        let service = c"127.0.0.1:0".as_ptr();
        let server = ns_server_new(service, Some(nothing), null_mut(), None, config, null_mut());
        assert!(!server.is_null());
        assert_eq!(ns_config_set_max_thread(config, 8), NS_ERR_STATE);
        ns_config_free(config);
        assert_eq!(ns_config_max_thread(ns_server_config(server)), 7);
        assert_eq!(ns_server_free(server), NS_OK);
    });
}

/// A21.4, O4: A setter that came too late is an error, and the config is as good as before: usable
/// again when no server uses it.
#[test]
fn a_late_setter_is_not_remembered() {
    isolated(|| unsafe {
        let config = ns_config_new();
        let service = c"127.0.0.1:0".as_ptr();
        let new = || ns_server_new(service, Some(nothing), null_mut(), None, config, null_mut());
        let server = new();
        assert_eq!(ns_config_set_max_thread(config, 8), NS_ERR_STATE);
        assert_eq!(ns_config_set_use_ipv6(config, 1), NS_ERR_STATE);
        assert_eq!(ns_config_set_shutdown_port(config, c"0".as_ptr()), NS_ERR_STATE);
        assert_eq!(ns_config_set_on_start(config, None, null_mut(), None), NS_ERR_STATE);
        assert_eq!(ns_config_clear_tls(config), NS_ERR_STATE);
        assert_eq!(ns_server_free(server), NS_OK);
        assert_eq!(ns_config_set_max_thread(config, 9), NS_OK);
        let server = new();
        assert!(!server.is_null());
        assert_eq!(ns_config_max_thread(ns_server_config(server)), 9);
        assert_eq!(ns_server_free(server), NS_OK);
        assert_eq!(ns_config_set_max_thread(config, 0), NS_ERR_INVALID);
        assert!(new().is_null(), "a bad one is remembered");
        ns_config_free(config);
    });
}

/// E5: NULL is an error everywhere, never a crash, and `*err` is always written.
#[test]
fn null_is_an_error() {
    isolated(|| unsafe {
        let invalid = NS_ERR_INVALID;
        let socket: *mut ns_socket = null_mut();
        assert_eq!(ns_socket_recv(socket, null_mut(), 0), invalid.into());
        assert_eq!(ns_socket_send(socket, null(), 0), invalid);
        assert_eq!(ns_socket_close(socket), invalid);
        assert_eq!(ns_socket_abort(socket), invalid);
        assert_eq!((ns_socket_id(socket), ns_socket_fd(socket)), (0, -1));
        let server: *mut ns_server = null_mut();
        assert_eq!(ns_server_stop(server), invalid);
        assert_eq!(ns_server_request_stop(server), invalid);
        assert_eq!(ns_server_wait(server, 0), invalid);
        assert_eq!(ns_server_send(server, 1, null(), 0), invalid);
        assert_eq!(ns_server_broadcast(server, null(), 0, null(), 0), invalid.into());
        assert_eq!(ns_server_foreach(server, None, null_mut()), invalid.into());
        assert_eq!((ns_server_port(server), ns_server_report(server, null_mut(), 0)), (0, 0));
        let mut error: *mut ns_error = null_mut();
        assert_eq!(ns_server_start(server, 0, &mut error), invalid);
        assert_eq!(ns_error_status(error), invalid);
        ns_error_free(error);
        let made = ns_server_new(null(), None, null_mut(), None, null(), &mut error);
        assert!(made.is_null());
        assert_eq!(ns_error_status(error), invalid);
        assert!(!CStr::from_ptr(ns_error_message(error)).is_empty());
        ns_error_free(error);
        ns_error_free(null_mut());
        ns_socket_free(null_mut());
        ns_config_free(null_mut());
        assert_eq!(ns_config_set_max_thread(null_mut(), 1), invalid);
    });
}

/// E6: Bad UTF-8 is an error that says where.
#[test]
fn bad_utf8_is_an_error() {
    isolated(|| unsafe {
        let bad: *const c_char = c"\xff\xfe".as_ptr();
        let mut error = null_mut();
        let made = ns_server_new(bad, Some(nothing), null_mut(), None, null(), &mut error);
        assert!(made.is_null());
        assert_eq!(ns_error_status(error), NS_ERR_INVALID);
        let text = CStr::from_ptr(ns_error_message(error)).to_str().unwrap();
        assert!(text.contains("UTF-8"), "{text}");
        ns_error_free(error);
        let config = ns_config_new();
        assert_eq!(ns_config_set_shutdown_port(config, bad), NS_ERR_INVALID);
        ns_config_free(config);
    });
}

/// E1: The names in C are those of the statuses.
#[test]
fn names_and_messages() {
    for status in Status::ALL {
        unsafe {
            let name = CStr::from_ptr(ns_status_name(status.code()));
            let message = CStr::from_ptr(ns_status_message(status.code()));
            assert_eq!(name.to_str(), Ok(status.name()));
            assert_eq!(message.to_str(), Ok(status.message()));
        }
    }
    unsafe {
        assert!(!CStr::from_ptr(ns_status_name(12345)).is_empty());
        assert!(!CStr::from_ptr(ns_close_reason_name(-1)).is_empty());
        assert_eq!(CStr::from_ptr(ns_version_string()).to_str(), Ok(net_server::VERSION));
    }
}

/// X2: `ns_raise` always returns a negative number, whatever it is given.
#[test]
fn raise_is_always_negative() {
    for (code, expected) in [(-5, -5), (0, -1), (7, -1), (i32::MAX, -1), (i32::MIN, i32::MIN)] {
        assert_eq!(unsafe { ns_raise(null_mut(), code, null()) }, expected);
    }
}

/// FK1: In a child of fork(2) the statistics and the request of a stop fail too.
#[test]
fn calls_in_a_child() {
    isolated(|| {
        for config in both_modes() {
            let server = start(config, Hooks::new(echo));
            // SAFETY: the child makes these calls alone.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let (mut stats, mut error) = ([0u8; size_of::<ns_stats>()], null_mut());
                let stats = stats.as_mut_ptr().cast();
                let tls = ns_tls_new();
                let results = unsafe {
                    [
                        ns_server_request_stop(server.raw()),
                        ns_server_stats(server.raw(), stats, size_of::<ns_stats>()),
                        ns_server_reload_tls(server.raw(), tls, &mut error),
                        ns_server_unwatch(server.raw(), 1),
                        ns_server_timer_cancel(server.raw(), 1),
                    ]
                };
                let failed = results == [NS_ERR_STATE; 5];
                // SAFETY: it takes a number.
                unsafe { libc::_exit((!failed).into()) };
            }
            let mut status = 0;
            // SAFETY: our own child, which was not waited for.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
            Client::connect(&server).echo("hello");
            server.stop().unwrap();
        }
    });
}

/// HS12, A10.1: Where a handler of a hosted server does not return, `ns_server_free` on another
/// thread reports that in time, and succeeds later.
#[test]
fn a_free_beside_a_handler_that_hangs() {
    isolated(|| {
        let gate = Gate::new();
        let inside = gate.clone();
        let hooks = Hooks::new(move |_, _| {
            inside.wait();
            Ok(())
        });
        let server = unstarted(non_blocking(1).drain_timeout(ms(50)), hooks);
        server.start_hosted().unwrap();
        let _client = Client::connect(&server).saying("x");
        std::thread::scope(|scope| {
            let host = scope.spawn(|| while server.run_once(Some(ms(5))).is_ok() {});
            gate.reached_by(1);
            let clock = Stopwatch::start();
            assert_eq!(unsafe { ns_server_free(server.raw()) }, NS_ERR_TIMEOUT);
            assert!(clock.elapsed() < ms(50) + late(), "{:?}", clock.elapsed());
            gate.open();
            host.join().unwrap();
        });
        // Dropped, it is freed.
        assert!(server.is_stopped());
    });
}
