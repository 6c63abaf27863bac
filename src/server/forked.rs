//! A server in a child of fork(2), which only has copies of it.

#![forbid(unsafe_code)]

use std::sync::{PoisonError, TryLockError};

use super::Server;
use crate::callback;

impl Server {
    /// Closes the child's copies of the descriptors: of a hosted server all, of
    /// another one the listeners', because the connections are in the hands of
    /// threads that the child does not have. Returns whether the memory may be
    /// freed too: no thread of the parent, and no callback that made the fork,
    /// was using it.
    pub(crate) fn leave_to_parent(&self) -> bool {
        let running = match self.inner.running.try_read() {
            Err(TryLockError::WouldBlock) => return false,
            Ok(running) => running.clone(),
            Err(TryLockError::Poisoned(running)) => PoisonError::into_inner(running).clone(),
        };
        let Some(running) = running else { return self.inner.life.is_at_rest() };
        let is_unused = match running.hosted.get() {
            None => self.inner.life.is_at_rest(),
            Some(_) if self.in_callback() => false,
            Some(hosted) => match hosted.try_turn() {
                None => false,
                Some(mut turn) => {
                    let event_loop = turn.take();
                    drop(turn);
                    callback::contain_drop(event_loop);
                    true
                }
            },
        };
        let guests = running.guest.get().into_iter().flat_map(|guest| &guest.listener_fds);
        running.listener_fds.iter().chain(guests).for_each(|fd| fd.close_in_child());
        is_unused
    }
}
