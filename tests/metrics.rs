//! The metrics allocate nothing, and docs/METRICS.md lists all of them. This program has an
//! allocator of its own.

use net_server::{Config, Server, Socket, Status};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `body` allocates on this thread.
fn allocations<T>(body: impl FnOnce() -> T) -> (u64, T) {
    let before = COUNT.get();
    let value = body();
    (COUNT.get() - before, value)
}

fn handler(_: &Server, _: &mut Socket<'_>) -> Result<(), Status> {
    Ok(())
}

fn servers() -> [Server; 2] {
    [false, true].map(|non_blocking| {
        let config = Config::new().non_blocking(non_blocking).max_thread(3);
        Server::with_config("127.0.0.1:0", handler, config).unwrap()
    })
}

/// MT5: The text is written without an allocation, whatever the server's state is; a buffer that is
/// too short has its beginning.
#[test]
fn no_allocation() {
    assert!(allocations(|| Box::new(5)).0 > 0, "the allocator counts");
    for server in servers() {
        let mut room = vec![0; 64 << 10];
        let mut write = |server: &Server| {
            let (count, length) = allocations(|| server.write_metrics(&mut room));
            assert_eq!(count, 0, "allocations");
            assert!(length > 1000 && length < room.len(), "{length}");
            let mut short = [b'.'; 100];
            assert!(server.write_metrics(&mut short) > 1000);
            assert_eq!(short[..], room[..100]);
            assert!(server.write_metrics(&mut []) > 1000);
        };
        write(&server);
        server.start_background().unwrap();
        write(&server);
        server.stop().unwrap();
        write(&server);
    }
}

/// MT5: Neither does the C ABI allocate.
#[cfg(feature = "capi")]
#[test]
fn no_allocation_in_c() {
    use net_server::ffi::*;
    use std::ptr::{null, null_mut};
    unsafe extern "C-unwind" fn handle(
        _: *mut ns_server,
        _: *mut ns_socket,
        _: *mut std::ffi::c_void,
    ) -> i32 {
        0
    }
    // SAFETY: the server lives until it is freed, and the buffer has its length.
    unsafe {
        let server =
            ns_server_new(c"0".as_ptr(), Some(handle), null_mut(), None, null(), null_mut());
        assert_eq!(ns_server_start(server, NS_START_BACKGROUND, null_mut()), 0);
        let mut room = vec![0u8; 64 << 10];
        let (buffer, len) = (room.as_mut_ptr().cast(), room.len());
        let (count, length) = allocations(|| ns_server_metrics(server, buffer, len));
        assert_eq!(count, 0, "allocations");
        assert!(length > 1000 && length < len && room[length] == 0, "{length}");
        assert_eq!(ns_server_free(server), 0);
    }
}

/// MT4: docs/METRICS.md has a line for each family, with its type and labels, and no other line.
#[test]
fn the_list_is_complete() {
    let list = include_str!("../docs/METRICS.md");
    let rows = list.lines().filter(|line| line.starts_with("| `netserver_"));
    let listed: Vec<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.trim().replace('`', "")).collect();
            (cells[1].clone(), cells[2].clone(), cells[3].clone())
        })
        .collect();
    let server = &servers()[1];
    server.start_background().unwrap();
    let text = server.metrics();
    let samples = |name: &str| {
        let of = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        text.lines().find(of).expect("a sample").to_owned()
    };
    let families: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| {
            let sample = samples(name);
            let labels = sample.split_once('{').map_or("", |(_, rest)| rest);
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
            (name.to_owned(), kind.to_owned(), names.collect::<Vec<_>>().join(", "))
        })
        .collect();
    assert_eq!(listed, families);
}
