//! State that all threads of a run share: the connections, the acts, the findings.

use super::story::Story;
use super::wire::Name;
use super::{lock, Random};
use crate::api::{CloseReason, ConnId, Error, Status};
use crate::support::*;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

pub struct World {
    pub title: String,
    pub non_blocking: bool,
    pub tls: bool,
    pub seed: u64,
    pub begun: Instant,
    /// Whether the run goes on after a finding.
    go_on: bool,
    /// The round is over: clients come to their end.
    pub over: AtomicBool,
    /// A stop is under way: nobody can be sure to be served.
    pub stopping: AtomicBool,
    /// When a quiesce was first asked for, in this round.
    quiesced_at: Mutex<Option<Instant>>,
    /// The next handler is to ask for it.
    pub wants_quiesce: AtomicBool,
    /// What comes is there for its own sake.
    pub probing: AtomicBool,
    /// An address may have few connections only.
    pub limited: AtomicBool,
    /// Nobody is refused because too many wait.
    pub roomy: AtomicBool,
    pub on_quiesce: AtomicU64,
    pub on_stop: AtomicU64,
    /// Headers that were refused in this round, as the exception handler was told.
    pub headers_refused: AtomicU64,
    /// Clients that have not come to their end.
    pub clients: AtomicUsize,
    by_peer: Mutex<HashMap<SocketAddr, Weak<Story>>>,
    open: Mutex<Vec<(ConnId, Weak<Story>)>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    findings: Mutex<BTreeMap<String, (u64, String)>>,
    watched: Mutex<HashMap<u64, Watched>>,
    next_watched: AtomicU64,
}

struct Watched {
    what: &'static str,
    since: Instant,
    bound: Duration,
    story: Weak<Story>,
}

/// How much longer than its bound a call may take on a busy machine.
const SLACK: Duration = Duration::from_millis(900);
/// A call that does not return within this never will: the process of the run is ended.
const FOREVER: Duration = Duration::from_secs(25);

impl World {
    pub fn new(title: String, non_blocking: bool, tls: bool, seed: u64) -> Arc<World> {
        Arc::new(World {
            title,
            non_blocking,
            tls,
            seed,
            begun: Instant::now(),
            go_on: std::env::var_os("NS_ORACLE_GO_ON").is_some(),
            over: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            quiesced_at: Mutex::default(),
            wants_quiesce: AtomicBool::new(false),
            probing: AtomicBool::new(false),
            limited: AtomicBool::new(false),
            roomy: AtomicBool::new(false),
            on_quiesce: AtomicU64::new(0),
            on_stop: AtomicU64::new(0),
            headers_refused: AtomicU64::new(0),
            clients: AtomicUsize::new(0),
            by_peer: Mutex::default(),
            open: Mutex::default(),
            counts: Mutex::default(),
            findings: Mutex::default(),
            watched: Mutex::default(),
            next_watched: AtomicU64::new(0),
        })
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub fn begin_quiesce(&self) {
        *lock(&self.quiesced_at) = Some(Instant::now());
    }

    pub fn quiesced_at(&self) -> Option<Instant> {
        *lock(&self.quiesced_at)
    }

    /// Another round begins.
    pub fn begin(&self) {
        for flag in [&self.over, &self.stopping, &self.wants_quiesce] {
            flag.store(false, Ordering::SeqCst);
        }
        for count in [&self.headers_refused, &self.on_quiesce, &self.on_stop] {
            count.store(0, Ordering::SeqCst);
        }
        *lock(&self.quiesced_at) = None;
        self.forget_all();
    }

    pub fn has_clients(&self) -> bool {
        self.clients.load(Ordering::SeqCst) > 0
    }

    /// Nobody waits for the rest of the run.
    pub fn is_given_up(&self) -> bool {
        !self.go_on && !lock(&self.findings).is_empty()
    }

    // -- connections ----------------------------------------------------------------------

    pub fn expect(&self, peer: SocketAddr, story: &Arc<Story>) {
        lock(&self.by_peer).insert(peer, Arc::downgrade(story));
    }

    pub fn of_peer(&self, peer: SocketAddr) -> Option<Arc<Story>> {
        lock(&self.by_peer).get(&peer).and_then(Weak::upgrade)
    }

    /// The connections that have not come to their end.
    pub fn unfinished(&self) -> Vec<Arc<Story>> {
        lock(&self.by_peer).values().filter_map(Weak::upgrade).collect()
    }

    /// Other threads may call this connection by its id from now on.
    pub fn opened(&self, id: ConnId, story: &Arc<Story>) {
        let mut open = lock(&self.open);
        // Gone ones are called too, but not for long.
        if open.len() >= 64 {
            open.retain(|(_, story)| story.strong_count() > 0);
        }
        open.push((id, Arc::downgrade(story)));
    }

    /// No other thread calls this connection from now on.
    pub fn leave_alone(&self, id: ConnId) {
        lock(&self.open).retain(|(other, _)| *other != id);
    }

    fn forget_all(&self) {
        lock(&self.open).clear();
        lock(&self.by_peer).clear();
    }

    /// Any of the connections that may be called by id.
    pub fn any(&self, random: &mut Random) -> Option<(ConnId, Arc<Story>)> {
        let open = lock(&self.open);
        if open.is_empty() {
            return None;
        }
        let (id, story) = &open[random.below(open.len())];
        Some((*id, story.upgrade()?))
    }

    // -- what was done --------------------------------------------------------------------

    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    /// The exception handler was called.
    pub fn exception(&self, error: &Error) {
        self.count("exceptions");
        if error.status() == Status::Proxy {
            self.count("a header is refused");
            self.headers_refused.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub fn add(&self, what: &'static str, number: u64) {
        *lock(&self.counts).entry(what).or_insert(0) += number;
    }

    pub fn counted(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or(0)
    }

    /// One line.
    pub fn summary(&self) -> String {
        let counts = lock(&self.counts);
        let counts: Vec<_> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let found: u64 = lock(&self.findings).values().map(|(count, _)| count).sum();
        let (title, seed, took) = (&self.title, self.seed, self.begun.elapsed().as_secs());
        format!("{title}, seed {seed}, {took} s: findings {found}; {}", counts.join(", "))
    }

    /// B10: The call is one for loops, and says so of a blocking server.
    pub fn is_for_loops<T>(&self, result: &Result<T, Error>) -> bool {
        let refused = result.as_ref().is_err_and(|error| error.status() == Status::NotNonBlocking);
        if refused {
            self.count("refused without loops");
        }
        refused && !self.non_blocking
    }

    // -- what was found -------------------------------------------------------------------

    /// A property does not hold. Equal kinds are counted, and reported once.
    pub fn found(&self, property: &str, kind: &str, story: Option<&str>) {
        let mut findings = lock(&self.findings);
        let known = findings.entry(format!("{property}: {kind}")).or_insert_with(|| {
            let at = self.begun.elapsed().as_secs_f64();
            let text = format!(
                "FOUND after {at:.1} s, {}, seed {}: {property}: {kind}\n{}",
                self.title,
                self.seed,
                story.unwrap_or("")
            );
            eprintln!("{text}");
            (0, text)
        });
        known.0 += 1;
    }

    /// Each kind that was found, and how often.
    pub fn findings(&self) -> Vec<String> {
        let findings = lock(&self.findings);
        findings.iter().map(|(kind, (count, _))| format!("{count} x {kind}")).collect()
    }

    // -- bounds ---------------------------------------------------------------------------

    /// Makes a call, which must return within `bound`.
    pub fn call<T>(
        &self,
        what: &'static str,
        bound: Duration,
        story: &Arc<Story>,
        call: impl FnOnce() -> T,
    ) -> T {
        self.watch(what, bound, Arc::downgrade(story), call)
    }

    /// The same for a call that belongs to no connection.
    pub fn watch<T>(
        &self,
        what: &'static str,
        bound: Duration,
        story: Weak<Story>,
        call: impl FnOnce() -> T,
    ) -> T {
        let number = self.next_watched.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        lock(&self.watched).insert(number, Watched { what, since, bound, story });
        let result = call();
        let watched = lock(&self.watched).remove(&number);
        let took = since.elapsed();
        if let Some(watched) = watched.filter(|_| took > bound + SLACK) {
            let story = watched.story.upgrade().map(|story| story.tell());
            let kind = format!("{what} returns later than its bound of {bound:?}");
            self.found(
                "in time",
                &kind,
                Some(&format!("took {took:?}\n{}", story.unwrap_or_default())),
            );
        }
        result
    }

    /// Looks after the calls until `done`.
    pub fn guard(&self, done: &AtomicBool) {
        while !done.load(Ordering::SeqCst) {
            let_pass(ms(100));
            let watched = lock(&self.watched);
            let stuck = watched.values().find(|call| call.since.elapsed() > call.bound + FOREVER);
            if let Some(call) = stuck {
                let story = call.story.upgrade().map(|story| story.tell()).unwrap_or_default();
                self.found("in time", &format!("{} does not return", call.what), Some(&story));
                eprintln!("{}", self.summary());
                std::process::abort();
            }
        }
    }
}

/// How a connection ended, as a count.
pub fn ended(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Handler => "closed by the handler",
        CloseReason::Peer => "closed by the peer",
        CloseReason::Reset => "closed by a reset",
        CloseReason::Idle => "closed as idle",
        CloseReason::Timer => "closed by the timer",
        CloseReason::WriteTimeout => "closed by write_timeout",
        CloseReason::Error => "closed by an error",
        CloseReason::Abort => "closed by an abort",
        CloseReason::Stop => "closed by a stop",
        CloseReason::Cut => "closed by a cut",
        CloseReason::Rejected => "closed as rejected",
        CloseReason::Handshake => "closed by the handshake",
        CloseReason::Limit => "closed for a limit",
        CloseReason::Proxy => "closed for its header",
        _ => "closed otherwise",
    }
}

/// The name of this thread's next frame.
pub fn next_name() -> Name {
    static SENDERS: AtomicU16 = AtomicU16::new(1);
    thread_local! {
        static SENDER: u16 = SENDERS.fetch_add(1, Ordering::Relaxed) & 0x3fff;
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    let number = NUMBER.get();
    NUMBER.set(number + 1);
    Name { sender: SENDER.with(|sender| *sender), number }
}
