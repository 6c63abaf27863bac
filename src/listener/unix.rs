//! Listening on a unix socket (unix(7)), and the file that it has.
//!
//! The file of a server that ended without a stop stays behind; nobody listens
//! on it, and the next server replaces it. Between its bind(2) and its
//! listen(2) a new socket looks the same to another server that starts at the
//! same time. So servers do this one after another, by a lock of the folder. One
//! that cannot have the lock looks, after listen(2), whether the file is still
//! its own, and fails if another has replaced it.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{listen_error, Listener};
use crate::clock::Deadline;
use crate::config::Config;
use crate::error::Error;
use crate::fork::Process;
use crate::service::Service;
use crate::sync::lock;
use crate::sys;

/// How long a start, and an end, wait for the lock of the folder at most. Others
/// of this library have it for some system calls; anybody may have it for long.
const START_MS: u64 = 300;
const END_MS: u64 = 5;

/// The file of a listening socket. It is removed when this is dropped, if the
/// path still has it.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    /// A child of fork(2) has a copy of this, and removes nothing.
    process: Process,
    is_left: bool,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        if !found.file_type().is_socket() {
            // Somebody has put it into the place of the socket.
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let (path, identity) = (path.into(), identity(&found));
        Ok(SocketFile { path, identity, process: Process::current(), is_left: false })
    }

    /// Sets the permissions, and never those of the file that a symbolic link
    /// means: who may write to the folder can put one into the socket's place.
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        match sys::change_mode(&self.path, mode) {
            // The C library needs /proc for it.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) && self.is_there()? => {
                fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
            }
            changed => changed,
        }
    }

    /// Leaves the file to others who have the socket.
    pub fn leave(mut self) {
        self.is_left = true;
    }

    /// The kernel gives the number of the file to no other one while the socket
    /// is open.
    fn is_there(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            found => Ok(identity(&found?) == self.identity),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_left || !self.process.is_current() {
            return;
        }
        let _locked = FolderLock::take(&self.path, END_MS);
        if self.is_there().unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The lock of a socket's folder (flock(2)). While it lives no other server of
/// this library makes, replaces or removes a socket file there.
struct FolderLock(Option<File>);

impl FolderLock {
    /// Goes without the lock where it cannot be had in time.
    fn take(path: &Path, patience_ms: u64) -> FolderLock {
        let until = Deadline::after_ms(patience_ms);
        let folder = path.parent().and_then(|folder| File::open(folder).ok());
        FolderLock(folder.filter(|folder| loop {
            match sys::try_lock(folder.as_fd()) {
                Ok(()) => break true,
                Err(e) if e.kind() != io::ErrorKind::WouldBlock || until.is_due() => break false,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }))
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = sys::unlock(folder.as_fd());
        }
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

pub(super) fn bind_file(
    service: &Service,
    path: &Path,
    config: &Config,
) -> Result<Listener, Error> {
    let failed = |e: io::Error| listen_error(service, &e);
    let socket = new_socket().map_err(failed)?;
    let address = SockAddr::unix(path).map_err(failed)?;
    // A failure ends the lock and then drops the file, which takes it again.
    let file;
    let _locked = FolderLock::take(path, START_MS);
    match socket.bind(&address) {
        Err(e) if is_in_use(&e) => {
            remove_stale(path, &address).map_err(|why| failed(e).append(&format!(" ({why})")))?;
            socket.bind(&address).map_err(failed)?;
        }
        bound => bound.map_err(failed)?,
    }
    file = SocketFile::new(path).map_err(failed)?;
    file.set_mode(config.unix_mode).map_err(failed)?;
    socket.listen(config.backlog as i32).map_err(failed)?;
    if !file.is_there().map_err(failed)? {
        let in_use = io::Error::from_raw_os_error(libc::EADDRINUSE);
        return Err(failed(in_use).append(" (another server uses the path)"));
    }
    let listener = Listener::new(socket).map_err(failed)?;
    *lock(&listener.file) = Some(file);
    Ok(listener)
}

pub(super) fn bind_abstract(
    service: &Service,
    name: &str,
    config: &Config,
) -> Result<Listener, Error> {
    let bind = || {
        let socket = new_socket()?;
        socket.bind(&SockAddr::unix(format!("\0{name}"))?)?;
        socket.listen(config.backlog as i32)?;
        Listener::new(socket)
    };
    bind().map_err(|e: io::Error| match is_in_use(&e) {
        true => listen_error(service, &e).append(" (another socket has the name)"),
        false => listen_error(service, &e),
    })
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM, None)
}

fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

/// Removes the file of a socket on which nobody listens. Leaves anything else
/// alone, and returns what it is.
fn remove_stale(path: &Path, address: &SockAddr) -> Result<(), String> {
    let unknown = |e: io::Error| format!("cannot examine the file: {e}");
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(unknown)?,
    };
    if !found.file_type().is_socket() {
        return Err("the file is no socket".into());
    }
    let probe = new_socket().map_err(unknown)?;
    probe.set_nonblocking(true).map_err(unknown)?;
    match probe.connect(address) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(unknown(e)),
        _ => return Err("another socket listens there".into()),
    }
    // It may have been replaced meanwhile.
    let now = fs::symlink_metadata(path).map_err(unknown)?;
    if identity(&now) != identity(&found) {
        return Err("another server uses the path".into());
    }
    fs::remove_file(path).map_err(|e| format!("cannot replace the file: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_place_of_the_socket_changes_no_other_file() {
        let folder = std::env::temp_dir().join(format!("ns-mode-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (path, other) = (folder.join("socket"), folder.join("other"));
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        let socket = new_socket().unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        let file = SocketFile::new(&path).unwrap();
        file.set_mode(0o604).unwrap();
        assert_eq!(mode(&path), 0o604);
        fs::write(&other, "").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(file.set_mode(0o777).is_err() && SocketFile::new(&path).is_err());
        assert_eq!(mode(&other), 0o640);
        fs::remove_dir_all(&folder).unwrap();
    }
}
