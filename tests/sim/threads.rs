//! Calls of other threads. They come between the turns, and while the library waits for events; the
//! host's thread stands still meanwhile, so that a seed gives one order.

use net_server::{Server, Status};

use crate::program::{note_status, on_story, send_by_id, Program};
use crate::world::{self, with};

/// Runs `body` on another thread, with this thread's world.
fn elsewhere(body: impl FnOnce() + Send) {
    let world = world::end();
    let work = move || {
        world::begin(*world);
        body();
        world::end()
    };
    let world = std::thread::scope(|scope| scope.spawn(work).join()).expect("the other thread");
    world::begin(*world);
}

/// What is called there.
pub fn call(server: &Server, program: &Program) {
    if with(|w| w.stories.is_empty()) {
        return;
    }
    with(|w| w.report.count("calls of another thread"));
    elsewhere(|| {
        let (link, kind, count) = with(|w| {
            let all = w.stories.len() as u64;
            (w.random.below(all) as u32, w.random.below(16), w.random.below(20_000))
        });
        with(|w| w.step(80, kind, link.into()));
        let (id, is_open) = on_story(link, |story| (story.id, story.is_open()));
        match (kind, id) {
            (0, _) => crate::bring::bring(server, program),
            (1, _) => crate::watches::add(program, server),
            (2, _) => crate::watches::end_one(program, server),
            (3, _) if with(|w| w.random.once_in(6)) => crate::quiesce::request(server),
            (4, _) if with(|w| w.random.once_in(6)) => {
                with(|w| w.stop_at = w.stop_at.or(Some(w.now)));
                server.request_stop();
            }
            (5, _) => {
                let result = server.run_once(Some(std::time::Duration::ZERO));
                // HS5; between the turns any thread may run one.
                if result
                    .is_err_and(|error| !matches!(error.status(), Status::Busy | Status::State))
                {
                    with(|w| w.find("HS5: a turn on another thread".into()));
                }
            }
            (6, Some(id)) => {
                let result = server.close(id);
                on_story(link, |story| story.asked_close |= result.is_ok());
                note_status(&result);
            }
            (7, Some(id)) => {
                let result = server.wake(id);
                on_story(link, |story| story.asked_wake |= result.is_ok());
                note_status(&result);
            }
            (8, Some(id)) => {
                let result = server.abort(id);
                on_story(link, |story| story.asked_abort |= result.is_ok());
                note_status(&result);
            }
            (9, _) => {
                let result = server.post(0, move |server| {
                    send_by_id(server, link, count as usize);
                    Ok(())
                });
                note_status(&result);
            }
            (10, _) => drop((server.stats(), server.metrics(), server.connections())),
            _ if is_open => send_by_id(server, link, count as usize),
            _ => {}
        }
    });
}
