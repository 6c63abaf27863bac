//! Receiving the PROXY header. The connection takes from the kernel the bytes of
//! the header and no more: what follows it is for TLS or for the handler.

#![forbid(unsafe_code)]

use std::io;

use super::{Conn, Phase, Proxied};
use crate::clock::Deadline;
use crate::error::{Error, Status};
use crate::proxy::{decode, extent, Announced, Extent, Header, ProxyProtocol, Refusal, MAX_HEADER};
use crate::sys::{self, PollFlags, RecvFlags};

impl Conn {
    /// Returns the addresses that a PROXY header announced: the client's, and the
    /// one that it connected to.
    pub(super) fn announced(&self) -> Option<&(Announced, Announced)> {
        self.proxy_header()?.ends.as_ref()
    }

    /// Returns the value of the first TLV of this type in the PROXY header.
    pub fn proxy_tlv(&self, kind: u8) -> Option<&[u8]> {
        self.proxy_header()?.tlv(kind)
    }

    fn proxy_header(&self) -> Option<&Header> {
        match self.extra.as_ref()?.proxy.as_deref()? {
            Proxied::Whole(header) => Some(header),
            Proxied::Part(_) => None,
        }
    }

    /// Takes what has come of the PROXY header. Returns whether it is complete.
    pub fn take_proxy(&mut self, versions: ProxyProtocol) -> Result<bool, Error> {
        let context = self.context.clone();
        context.scratch.lend(|buffer| self.take_proxy_through(&mut buffer[..MAX_HEADER], versions))
    }

    /// A look (`MSG_PEEK`) finds how many of the bytes belong to the header, and
    /// these are received. So each byte is looked at once, and a header that comes
    /// byte by byte makes no wait spin.
    fn take_proxy_through(
        &mut self,
        buffer: &mut [u8],
        versions: ProxyProtocol,
    ) -> Result<bool, Error> {
        let mut came = self.take_part(buffer);
        loop {
            let fd = self.fd().ok_or(Status::Closed)?;
            let look = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            let seen = match sys::recv(fd, &mut buffer[came..], look) {
                Ok(0) => return Err(Error::new(Status::Proxy, PEER_LEFT)),
                Ok(n) => came + n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.keep_part(&buffer[..came]);
                    return Ok(false);
                }
                Err(e) => return Err(Error::from_os(Status::Proxy, "no PROXY header came", &e)),
            };
            let extent = extent(&buffer[..seen], versions).map_err(refused)?;
            let (Extent::Part(end) | Extent::Whole(end)) = extent;
            let taken = sys::recv(fd, &mut buffer[came..end], RecvFlags::DONTWAIT);
            let taken =
                taken.map_err(|e| Error::from_os(Status::Proxy, "no PROXY header came", &e))?;
            self.count_in(taken);
            came += taken;
            if extent == Extent::Whole(came) {
                self.note_proxy(decode(&buffer[..came]).map_err(refused)?);
                return Ok(true);
            }
        }
    }

    /// Puts the part of the header that came before at the beginning of the
    /// buffer, and returns its length.
    fn take_part(&mut self, buffer: &mut [u8]) -> usize {
        match self.extra.as_mut().and_then(|extra| extra.proxy.as_deref_mut()) {
            Some(Proxied::Part(part)) => {
                buffer[..part.len()].copy_from_slice(part);
                part.len()
            }
            _ => 0,
        }
    }

    fn keep_part(&mut self, came: &[u8]) {
        if came.is_empty() {
            return;
        }
        let place = &mut self.extra.get_or_insert_default().proxy;
        match place.as_deref_mut() {
            Some(Proxied::Part(part)) => part.extend_from_slice(&came[part.len()..]),
            _ => *place = Some(Box::new(Proxied::Part(came.to_vec()))),
        }
    }

    fn note_proxy(&mut self, header: Header) {
        self.origin = self.origin.without_proxy();
        match header.is_empty() {
            false => {
                let place = &mut self.extra.get_or_insert_default().proxy;
                *place = Some(Box::new(Proxied::Whole(header)));
            }
            true => {
                if let Some(extra) = &mut self.extra {
                    extra.proxy = None;
                }
            }
        }
    }

    /// Waits for the PROXY header, until the given time.
    pub fn wait_for_proxy(
        &mut self,
        versions: ProxyProtocol,
        until: Deadline,
    ) -> Result<(), Error> {
        let phase = self.phase();
        self.set_phase(Phase::Proxy);
        while !self.take_proxy(versions)? {
            match self.wait(PollFlags::IN, until) {
                Ok(()) => {}
                Err(Status::Timeout) => return Err(proxy_timeout()),
                Err(status) => return Err(Error::from(status)),
            }
        }
        self.set_phase(phase);
        Ok(())
    }
}

const PEER_LEFT: &str = "the peer closed the connection before the end of the PROXY header";

pub(crate) fn proxy_timeout() -> Error {
    Error::new(Status::Proxy, "the PROXY header did not come in time")
}

fn refused(why: Refusal) -> Error {
    Error::new(Status::Proxy, format!("the PROXY header is refused: {why}"))
}
