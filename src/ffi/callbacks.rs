//! The callbacks of a config.

use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::sync::Arc;

use super::config::ns_config;
use super::support::{object, status, UserData};
use super::types::*;

/// A function of the program's with its user data, shared by the config and
/// the servers made from it.
#[derive(Clone)]
pub(super) struct Callback<F> {
    pub function: F,
    /// What the function gets; `_owner` frees it.
    pub user_data: *mut c_void,
    _owner: Option<Arc<UserData>>,
}

// SAFETY: see UserData; the function is a plain pointer.
unsafe impl<F: Send> Send for Callback<F> {}
// SAFETY: as above.
unsafe impl<F: Sync> Sync for Callback<F> {}

impl<F> Callback<F> {
    pub fn new(function: F, user_data: UserData) -> Callback<F> {
        Callback { function, user_data: user_data.pointer, _owner: Some(Arc::new(user_data)) }
    }
}

/// Unset.
impl<F> Default for Callback<Option<F>> {
    fn default() -> Self {
        Callback { function: None, user_data: ptr::null_mut(), _owner: None }
    }
}

#[derive(Clone, Default)]
pub(super) struct Callbacks {
    pub shutdown: Callback<ns_shutdown_fn>,
    pub exception: Callback<ns_exception_fn>,
    pub start: Callback<ns_start_fn>,
    pub stop: Callback<ns_stop_fn>,
    pub open: Callback<ns_open_fn>,
    pub close: Callback<ns_close_fn>,
    pub drain: Callback<ns_event_fn>,
    pub timeout: Callback<ns_event_fn>,
    pub wake: Callback<ns_event_fn>,
}

/// Puts a callback in its place. The former one is dropped, unlocked; so is
/// the new one's user data where there is no function or no place.
unsafe fn set<F>(
    config: *mut ns_config,
    place: fn(&mut Callbacks) -> &mut Callback<Option<F>>,
    function: Option<F>,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    let user_data = UserData::new(user_data, drop);
    status(|| {
        let callback = match function {
            Some(_) => Callback::new(function, user_data),
            None => Callback::default(),
        };
        // SAFETY: the caller's contract.
        let config = unsafe { object(config, "config") }?;
        let _former =
            config.change(|inner| Ok(mem::replace(place(&mut inner.callbacks), callback)))?;
        Ok::<_, crate::Error>(())
    })
}

/// What serves the shutdown port, one peer after another, who sent something
/// first: each has 5 s, 500 ms where it is silent and another waits. Without it
/// every connection there stops the
/// server. For all callbacks: `function` NULL unsets; `drop` (NULL: none) frees
/// `user_data` after the last call, and at once if this fails or unsets.
/// Returns 0, NS_ERR_INVALID (NULL config) or NS_ERR_STATE (in use by a
/// server). [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_shutdown_handler(
    config: *mut ns_config,
    function: ns_shutdown_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.shutdown, function, user_data, drop) }
}

/// What is told of failures; without one a connection whose handler fails is
/// closed. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_exception_handler(
    config: *mut ns_config,
    function: ns_exception_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.exception, function, user_data, drop) }
}

/// A hook before the server accepts, on the thread that starts it. A single
/// event loop runs there afterwards: nothing that it does can be waited for
/// here. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_start(
    config: *mut ns_config,
    function: ns_start_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.start, function, user_data, drop) }
}

/// A hook when the server has stopped. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_stop(
    config: *mut ns_config,
    function: ns_stop_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.stop, function, user_data, drop) }
}

/// Called for each new connection, before its handler. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_open(
    config: *mut ns_config,
    function: ns_open_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.open, function, user_data, drop) }
}

/// Called last for each connection. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_close(
    config: *mut ns_config,
    function: ns_close_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.close, function, user_data, drop) }
}

/// Non-blocking mode: called when all queued bytes of a connection have left; in
/// a stop, too: what it sends is the rest of an answer, and the connection is
/// closed when it sends no more. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_drain(
    config: *mut ns_config,
    function: ns_event_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.drain, function, user_data, drop) }
}

/// Non-blocking mode: called when a connection's timer fires; without one it is
/// closed. [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_timeout(
    config: *mut ns_config,
    function: ns_event_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.timeout, function, user_data, drop) }
}

/// Non-blocking mode: called on a connection's loop after `ns_server_wake`.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_on_wake(
    config: *mut ns_config,
    function: ns_event_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    // SAFETY: the caller's contract.
    unsafe { set(config, |c| &mut c.wake, function, user_data, drop) }
}
