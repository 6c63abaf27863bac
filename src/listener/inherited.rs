//! Listening on sockets that somebody else has made: on a descriptor of the
//! program's, or on those that systemd passed (sd_listen_fds(3)).
//!
//! Such a socket is shared: the program, systemd or a successor of this process
//! has it too, accepts from it perhaps at the same time, and keeps it after the
//! stop. So no shutdown(2) ends it, and no option of it is changed but
//! `O_NONBLOCK`.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, RawFd};

use socket2::Socket;

use super::{listen_error, Listener};
use crate::config::Config;
use crate::descriptor::{self, Stream, Unfit};
use crate::error::{quoted, Error, Status};
use crate::service::Service;
use crate::sys;

/// Takes a duplicate of a descriptor, which stays the program's.
pub(super) fn take(service: &Service, fd: RawFd, config: &Config) -> Result<Listener, Error> {
    let failed = |e| listen_error(service, &e);
    let socket: Socket = match sys::duplicate(fd) {
        Ok(socket) => socket.into(),
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => {
            return Err(failed(e).append(&format!(" (descriptor {fd} is not open)")));
        }
        Err(e) => return Err(failed(e)),
    };
    let unfit = |what: &str| {
        let service = quoted(service.text());
        let text = format!("cannot listen on {service}: descriptor {fd} is {what}");
        Err(Error::new(Status::Listen, text))
    };
    match descriptor::examine(socket.as_fd()) {
        Ok(Stream::Listening) => Listener::inherited(socket, config).map_err(failed),
        Ok(Stream::Connected(_)) => unfit("a connected socket, not a listening one"),
        Ok(Stream::Connecting | Stream::Idle) => unfit("a socket that does not listen"),
        Err(Unfit::Other(what)) => unfit(what),
        Err(Unfit::Failed(e)) => Err(failed(e)),
    }
}

/// Takes the sockets that systemd passed to this process, or those of them that
/// have a name. It is an error if there is none.
pub(super) fn take_from_systemd(
    service: &Service,
    name: Option<&str>,
    config: &Config,
) -> Result<Vec<Listener>, Error> {
    let passed = sd_notify::listen_fds_with_names().map_err(|e| {
        listen_error(service, &e).append(" (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES)")
    })?;
    let passed: Vec<_> = passed.collect();
    let fits = |(_, found): &&(RawFd, String)| name.is_none_or(|name| name == found);
    let fitting = passed.iter().filter(fits).map(|(fd, _)| take(service, *fd, config));
    let listeners = fitting.collect::<Result<Vec<_>, _>>()?;
    if !listeners.is_empty() {
        return Ok(listeners);
    }
    let why = match (name, passed.as_slice()) {
        (Some(name), [_, ..]) => {
            let names: Vec<_> = passed.iter().map(|(_, name)| quoted(name)).collect();
            format!(
                "systemd passed no socket with the name {} but {}",
                quoted(name),
                names.join(", ")
            )
        }
        _ => "systemd passed no socket to this process (LISTEN_PID, LISTEN_FDS)".into(),
    };
    let service = quoted(service.text());
    Err(Error::new(Status::Listen, format!("cannot listen on {service}: {why}")))
}
