//! Files that the program sends, and the calls by which the library takes bytes out of them. A file
//! is a real one, in memory; the simulated kernel reads it.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};

use net_server::{Error, Socket, Status};

use crate::calls;
use crate::kernel::Answer;
use crate::program::on_story;
use crate::story;
use crate::world::{with, World};

/// sendfile(2) takes some pages at a time.
const PIPE: usize = 64 << 10;

impl World {
    /// `do_sendfile`: it may move fewer bytes than it is asked for.
    pub fn send_file(&mut self, fd: i32, file: i32, at: i64, count: usize) -> Answer {
        if self.random.once_in(self.rates.unreadable) {
            // A file whose file system has no sendfile, and one whose disk fails.
            return Err(self.random.one_of(&[libc::EINVAL, libc::EIO]));
        }
        let mut bytes = vec![0; count.min(PIPE * (1 + self.random.below(3) as usize))];
        let read = calls::read_file(file, &mut bytes, at)?;
        match read {
            0 => Ok(0),
            _ => self.send(fd, &[&bytes[..read]], 0),
        }
    }

    /// pread(2).
    pub fn read_file(&mut self, file: i32, buffer: &mut [u8], at: i64) -> Answer {
        if self.random.once_in(self.rates.unreadable) {
            return Err(self.random.one_of(&[libc::EINTR, libc::EIO]));
        }
        let is_short = self.random.once_in(self.rates.short_send) && !buffer.is_empty();
        let most = match is_short {
            true => 1 + self.random.below(buffer.len() as u64) as usize,
            false => buffer.len(),
        };
        Ok(calls::read_file(file, &mut buffer[..most], at)? as i64)
    }
}

/// A file with these bytes, and others before them.
fn file_of(before: usize, bytes: &[u8]) -> File {
    // SAFETY: the name ends with a zero byte; the descriptor belongs to nobody else.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"simulated".as_ptr(), 0)) };
    file.write_all(&[vec![b'-'; before].as_slice(), bytes].concat()).expect("memory");
    file
}

/// Sends the next bytes of the story from a file, which may end too early.
pub fn send_file(socket: &mut Socket<'_>, link: u32, count: usize) -> Result<(), Error> {
    let (before, bytes, missing) = with(|w| {
        let story = &w.stories[link as usize];
        let bytes = story::pattern(story.down, story.accepted, count);
        let missing = if w.random.once_in(50) { w.random.below(count as u64 + 1) } else { 0 };
        (w.random.one_of(&[0, 1, 70_000]), bytes, missing as usize)
    });
    let file = file_of(before, &bytes[..count - missing]);
    with(|w| w.file_of_program = Some(file.as_raw_fd()));
    let result = socket.sendfile(&file, before as u64, count as u64);
    with(|w| {
        w.file_of_program = None;
        w.say(|| format!("  link {link}: sendfile of {count} bytes: {result:?}"));
        w.report.count("sendfile");
    });
    let refused = [Status::BufferFull, Status::Closed, Status::State];
    on_story(link, |story| match &result {
        Ok(accepted) => {
            story.accepted += accepted;
            if !story.is_unknown {
                story.tried = story.accepted;
            }
            // Q10.
            story.wants_drain |= *accepted < count as u64;
        }
        Err(error) if refused.contains(&error.status()) => {
            if !story.is_unknown {
                story.tried = story.accepted;
            }
        }
        // A part may have left. Nothing can follow.
        Err(_) => story.is_unknown = true,
    });
    if result.as_ref().is_err_and(|error| error.status() == Status::Io) {
        on_story(link, |story| story.asked_abort = true);
        socket.abort();
    }
    result.map(drop)
}
