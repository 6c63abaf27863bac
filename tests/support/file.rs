//! Files to send.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;

/// What a file of the tests has before the part that is sent.
pub const BEFORE: u64 = 7;

/// A file that no folder has, with these bytes behind seven others.
pub fn file_of(bytes: &[u8]) -> File {
    // SAFETY: the call makes the descriptor.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"file".as_ptr(), 0)) };
    file.write_all(&[b'!'; BEFORE as usize]).unwrap();
    file.write_all(bytes).unwrap();
    file
}
