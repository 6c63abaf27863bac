//! The server and its handler: what becomes of each client is written down.

use std::sync::Arc;

use crate::config::Config;
use crate::conn::Conn;
use crate::error::Error;
use crate::listener::{Accepted, Quota};
use crate::logger::Kind;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{lock, yield_now, Condvar, Mutex};

#[derive(Default)]
pub struct Story {
    pub serving: u32,
    pub served: Vec<usize>,
    pub refused: Vec<usize>,
}

pub struct Server {
    pub config: Config,
    pub stopping: AtomicBool,
    pub story: Mutex<Story>,
    pub changed: Condvar,
}

pub struct Log;

impl Log {
    pub fn warn(&self, _: Kind, _: u64, _: impl FnOnce() -> String) {}
}

impl Server {
    pub fn new(config: Config) -> Arc<Server> {
        Arc::new(Server {
            config,
            stopping: AtomicBool::new(false),
            story: Mutex::new(Story::default()),
            changed: Condvar::new(),
        })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn quota(&self, _: usize) -> Quota {
        Quota
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub fn log(&self) -> Log {
        Log
    }

    pub fn wake_control(&self) {}
    pub fn settle_origin(&self, _: &mut Accepted) {}

    pub fn request_stop(&self) {
        unreachable!("no listener is lost");
    }

    /// Waits until as many clients are over.
    pub fn wait_for(&self, clients: usize) {
        let mut story = lock(&self.story);
        while story.served.len() + story.refused.len() < clients {
            story = self.changed.wait(story).unwrap();
        }
    }

    pub fn handle(&self, conn: &mut Conn) {
        let mut story = lock(&self.story);
        story.serving += 1;
        assert!(story.serving <= self.config.max_thread, "more handlers than workers");
        drop(story);
        yield_now();
        let mut story = lock(&self.story);
        story.serving -= 1;
        story.served.push(conn.client);
        self.changed.notify_all();
    }

    pub fn on_exception(&self, conn: &mut Conn) {
        lock(&self.story).refused.push(conn.client);
        self.changed.notify_all();
    }
}

pub struct Handler;

impl Handler {
    pub fn handle(&self, server: &Server, conn: &mut Conn) {
        server.handle(conn);
    }

    pub fn on_exception(&self, server: &Server, conn: Option<&mut Conn>, _: &Error) {
        conn.into_iter().for_each(|conn| server.on_exception(conn));
    }
}

/// The way into the handler.
pub mod callback {
    use super::{Handler, Server};
    use crate::conn::{Conn, ThreadContext};
    use crate::error::{CloseReason, Error};
    use std::io;

    pub fn call(server: &Server, conn: &mut Conn, body: impl FnOnce(&Handler, &Server, &mut Conn)) {
        body(&Handler, server, conn);
    }

    pub fn outcome(_: ()) -> Option<Error> {
        None
    }

    pub fn run_on_open(_: &Server, _: &mut Conn) -> Result<(), Error> {
        Ok(())
    }

    pub fn report_without_socket(_: &Server, _: &Error) -> Option<Error> {
        None
    }

    pub fn report_unserved(_: &Server, _: &Error) -> Option<Error> {
        None
    }

    pub fn report_lost_listener(_: &Server, _: &io::Error) -> Option<Error> {
        None
    }

    pub fn report_accept_failure(_: &Server, _: &io::Error, _: bool) -> Option<Error> {
        None
    }

    pub fn note_context(_: &ThreadContext) {}
    pub fn run_on_close(_: &Server, _: &mut Conn, _: CloseReason) {}
    pub fn report_failure(_: &Server, _: &mut Conn, _: Error) {}
    pub fn drop_on_loop<T>(_: Option<T>) {}
}
