//! The logger of a config.

// SAFETY of the blocks without a comment: the caller's contract, see `mod.rs`.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_char, c_void, CString};

use super::callbacks::{set, Callbacks};
use super::config::ns_config;
use super::error::ns_status;
use super::handles::{ns_conn_id, object};
use super::raise;
use super::support::status;
use super::user_data::{ns_drop_fn, Callback, UserData};
use crate::{Error, LogLevel, Logger, Status};

pub(super) type LogFn = unsafe extern "C-unwind" fn(i32, ns_conn_id, *const c_char, *mut c_void);

/// `ns_config_set_logger`: a listener was lost, or a loop has ended.
pub const NS_LOG_ERROR: i32 = 1;
/// `ns_config_set_logger`: a peer was turned away, accepting failed, or a reload
/// did.
pub const NS_LOG_WARN: i32 = 2;
/// `ns_config_set_logger`: the start, the addresses, the stop, a reload.
pub const NS_LOG_INFO: i32 = 3;
/// `ns_config_set_logger`: for those who look for a fault; no line has it yet.
pub const NS_LOG_DEBUG: i32 = 4;

/// The numbers are the core's; a mismatch does not compile.
const _: () = {
    assert!(NS_LOG_ERROR == LogLevel::Error as i32);
    assert!(NS_LOG_WARN == LogLevel::Warn as i32);
    assert!(NS_LOG_INFO == LogLevel::Info as i32);
    assert!(NS_LOG_DEBUG == LogLevel::Debug as i32);
};

/// Gets a line of the log. `level` is an `NS_LOG_...`; `id` is the connection's, 0
/// where the line is about none; `text` is borrowed: one line of UTF-8 without its
/// end, never key material, never what a peer has sent.
pub type ns_log_fn = Option<
    unsafe extern "C-unwind" fn(
        level: i32,
        id: ns_conn_id,
        text: *const c_char,
        user_data: *mut c_void,
    ),
>;

/// Sets the function that gets the log of a server, up to and including `level`.
/// Without one no text is made.
///
/// There is a line for the start and for each address, for the stop with its
/// counts and for each reload of TLS settings; and for failures to accept, refused
/// connections and those beyond a limit, refused PROXY headers and failed TLS
/// handshakes, of each of these kinds one in a second with the number of those that
/// were left out, the last number at the stop.
///
/// The library calls the function on its threads and in calls with the tag
/// [blocks], on several threads at the same time and under no lock. The function
/// counts as a callback of the server, and may call it; what it causes on its own
/// thread is not logged, and a server that it makes has no log.
///
/// Returns: as `ns_config_set_exception_handler`; NS_ERR_INVALID also for another
/// level, if `function` is not NULL.
/// [setup] [blocks]
#[no_mangle]
pub unsafe extern "C" fn ns_config_set_logger(
    config: *mut ns_config,
    level: i32,
    function: ns_log_fn,
    user_data: *mut c_void,
    drop: ns_drop_fn,
) -> ns_status {
    match (function, LogLevel::from_code(level)) {
        (None, _) => unsafe { set(config, |c| &mut c.logger, None, user_data, drop) },
        (Some(function), Some(level)) => unsafe {
            set(config, |c| &mut c.logger, Some((level, function)), user_data, drop)
        },
        (Some(_), None) => {
            let _user_data = UserData::new(user_data, drop);
            status(|| {
                let text = format!("the level of a logger is 1 to 4, not {level}");
                let failed = |_: &mut _| Err::<(), _>(Error::new(Status::Invalid, text));
                unsafe { object(config, "config") }?.change(failed)
            })
        }
    }
}

/// The program's function as a logger of the core.
pub(super) fn of(callbacks: &Callbacks) -> Option<Logger> {
    let (level, function) = callbacks.logger.function?;
    let callback = callbacks.logger.clone();
    Some(Logger::new(level, move |level, id, text| {
        let callback: &Callback<_> = &callback;
        // No control characters are in a line, so no NUL is.
        let Ok(text) = CString::new(text) else { return };
        // What the function raises is not that of a callback around it.
        let _outer = raise::outside();
        let id = id.map_or(0, crate::ConnId::get);
        // SAFETY: the program gave function and user data as a pair.
        unsafe { function(level as i32, id, text.as_ptr(), callback.user_data) };
    }))
}
