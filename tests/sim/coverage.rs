//! What must come in so many random episodes: else something is not tried any more.

use crate::report::Report;

/// How many episodes. A busy machine needs longer for them, so the time says nothing.
pub const ENOUGH: u64 = 5_000;

/// Each as [`Report::names`] names it. The comment of `coverage` says which are left out.
const LISTED: &str = "
    accept4: ok EAGAIN EINTR EMFILE ENFILE ENOMEM ENOBUFS EPERM ECONNABORTED EPROTO
    bind: ok EADDRINUSE | flock: ok EAGAIN | open64: ok | statx: ok | fchmodat: ok | unlink: ok | close: ok | connect: ok EINPROGRESS ENETUNREACH | fcntl: ok | getsockname: ok | getsockopt: ok | ioctl: ok
    epoll_create1: ok | epoll_ctl: ok ENOMEM ENOSPC | epoll_pwait: ok EINTR | eventfd: ok
    listen: ok | ppoll: ok | setsockopt: ok | shutdown: ok ENOTCONN | socket: ok
    recv: ok EAGAIN EINTR ECONNRESET | send: ok EAGAIN EINTR ECONNRESET EPIPE
    sendmsg: ok EAGAIN EINTR ECONNRESET EPIPE | timerfd_create: ok | timerfd_settime: ok | write: ok
    sendfile64: ok EAGAIN EINTR ECONNRESET EPIPE EINVAL EIO | pread64: ok EINTR EIO
    on_start: ok | on_open: ok NS_ERR_INVALID NS_ERR_REJECTED | on_drain: ok NS_ERR_INVALID
    handle: ok NS_ERR_INVALID NS_ERR_RESET NS_ERR_TIMEOUT | on_timeout: ok | on_wake: ok
    on_exception: ok
    status: NS_ERR_ACCEPT NS_ERR_BUFFER_FULL NS_ERR_CLOSED NS_ERR_INVALID NS_ERR_LISTEN NS_ERR_PANIC
    status: NS_ERR_RESET NS_ERR_TIMEOUT NS_ERR_CONNECT
    status: NS_ERR_HANDSHAKE NS_ERR_IO NS_ERR_PROXY NS_ERR_TRUNCATED
    open:: Idle Reset | with a queue:: Idle WriteTimeout | paused:: Idle Reset
    half-closed:: Idle Reset | not receiving:: Idle Reset | after the end:: Reset
    failed:: Handshake | STARTTLS | TLS resumed | unix backlog full | start at a taken path
    owned sockets of a descriptor | quiesce | idle | not idle | watch | calls of another thread
    closed:: Handler Peer Idle Reset WriteTimeout | aborted:: Abort | failed:: Error Handler Rejected
    in a stop:: Stop Cut Handler
";

/// What a run has missed. Left out is what so many episodes have less than some dozen times.
pub fn missed(report: &Report) -> Vec<String> {
    let names = report.names();
    let mut missed = Vec::new();
    for entry in LISTED.split(['|', '\n']).map(str::trim).filter(|entry| !entry.is_empty()) {
        // The last colon with a space behind it ends the first part. What is only counted has none.
        let listed: Vec<String> = match entry.rsplit_once(": ") {
            Some((first, all)) => all.split(' ').map(|one| format!("{first} {one}")).collect(),
            None => vec![entry.to_owned()],
        };
        missed.extend(listed.into_iter().filter(|name| !names.contains_key(name)));
    }
    missed
}
