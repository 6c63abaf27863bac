//! Tickets that several processes open: sealed with keys of the program's
//! own, by the construction that RFC 5077, 4, recommends.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex};

use aws_lc_rs::cipher::{
    DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
    AES_256, AES_256_KEY_LEN, AES_CBC_IV_LEN,
};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{error::Unspecified, hmac, iv};
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;

use super::{MAX_TICKET_KEYS, TICKET_KEY_LEN};
use crate::error::{Error, Status};
use crate::sync::lock;

const NAME_LEN: usize = 16;
const MAC_KEY_LEN: usize = 32;
const _: () = assert!(TICKET_KEY_LEN == NAME_LEN + AES_256_KEY_LEN + MAC_KEY_LEN);
/// The length of an HMAC-SHA256.
const TAG_LEN: usize = 32;
/// A ticket begins with the time in seconds at which it was sealed.
const TIME_LEN: usize = size_of::<u64>();
/// How long a ticket is good, in seconds: 12 hours, as with rustls' own keys.
const LIFETIME: u32 = 12 * 60 * 60;

/// The program's keys, which replace the process's own. Each stays where it is
/// until it is wiped: memory that it moved from would keep a copy.
pub(super) type Keys = Mutex<Option<Arc<[Box<Key>]>>>;

/// Tickets by the program's keys; where it has set none, by the process's own.
pub(super) struct Tickets {
    pub own: Arc<dyn ProducesTickets>,
    pub keys: Arc<Keys>,
}

impl Tickets {
    /// Returns the keys for one handshake, which holds no lock while it uses
    /// them.
    fn keys(&self) -> Option<Arc<[Box<Key>]>> {
        lock(&self.keys).clone()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No key is shown.
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match self.keys() {
            None => self.own.encrypt(plain),
            Some(keys) => keys.first()?.seal(plain, UnixTime::now().as_secs()),
        }
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        match self.keys() {
            None => self.own.decrypt(cipher),
            Some(keys) => {
                let now = UnixTime::now().as_secs();
                keys.iter().find_map(|key| key.open(cipher, now))
            }
        }
    }
}

/// One key. Its parts are wiped when it is dropped.
pub(super) struct Key {
    name: [u8; NAME_LEN],
    sealing: PaddedBlockEncryptingKey,
    opening: PaddedBlockDecryptingKey,
    mac: hmac::Key,
}

/// Reads 1 to [`MAX_TICKET_KEYS`] keys, one behind the other.
pub(super) fn keys(bytes: &[u8]) -> Result<Arc<[Box<Key>]>, Error> {
    let (parts, rest) = (bytes.chunks_exact(TICKET_KEY_LEN), bytes.len() % TICKET_KEY_LEN);
    if rest != 0 || !(1..=MAX_TICKET_KEYS).contains(&parts.len()) {
        let text = format!(
            "the ticket keys must be 1 to {MAX_TICKET_KEYS} keys of {TICKET_KEY_LEN} bytes, \
             not {} bytes",
            bytes.len()
        );
        return Err(Error::new(Status::Invalid, text));
    }
    let failed = |_| Error::new(Status::Tls, "cannot set the ticket keys up");
    parts.map(|part| Key::new(part).map(Box::new).map_err(failed)).collect()
}

impl Key {
    /// Makes a key of its [`TICKET_KEY_LEN`] bytes.
    fn new(bytes: &[u8]) -> Result<Key, Unspecified> {
        let (name, secrets) = bytes.split_at_checked(NAME_LEN).ok_or(Unspecified)?;
        let (cipher, mac) = secrets.split_at_checked(AES_256_KEY_LEN).ok_or(Unspecified)?;
        let mac: &[u8; MAC_KEY_LEN] = mac.try_into().map_err(|_| Unspecified)?;
        let cipher = || UnboundCipherKey::new(&AES_256, cipher);
        Ok(Key {
            name: name.try_into().map_err(|_| Unspecified)?,
            sealing: PaddedBlockEncryptingKey::cbc_pkcs7(cipher()?)?,
            opening: PaddedBlockDecryptingKey::cbc_pkcs7(cipher()?)?,
            mac: hmac::Key::new(hmac::HMAC_SHA256, mac),
        })
    }

    /// Makes a ticket of a session: the key's name, the initialization vector,
    /// the encrypted time and session, and the authentication code.
    fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        let mut state = [&now.to_be_bytes(), session].concat();
        let context = self.sealing.encrypt(&mut state).ok()?;
        let iv: &[u8] = (&context).try_into().ok()?;
        let tag = self.tag(iv, &state)?;
        Some([&self.name, iv, &state, tag.as_ref()].concat())
    }

    /// Returns the session in a ticket, or `None` where this key did not seal
    /// it or where it is too old. A ticket from the future is good: the clocks
    /// of machines differ.
    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        if name != self.name {
            return None;
        }
        let (iv, rest) = rest.split_at_checked(AES_CBC_IV_LEN)?;
        let (state, tag) = rest.split_at_checked(rest.len().checked_sub(TAG_LEN)?)?;
        verify_slices_are_equal(self.tag(iv, state)?.as_ref(), tag).ok()?;
        let context = DecryptionContext::Iv128(iv::FixedLength::try_from(iv).ok()?);
        let mut state = state.to_vec();
        let plain = self.opening.decrypt(&mut state, context).ok()?;
        let (then, session) = plain.split_first_chunk::<TIME_LEN>()?;
        let age = now.saturating_sub(u64::from_be_bytes(*then));
        (age <= LIFETIME.into()).then(|| session.to_vec())
    }

    /// Returns the code over a ticket's other parts. `None` where they are
    /// longer than a ticket can be.
    fn tag(&self, iv: &[u8], state: &[u8]) -> Option<hmac::Tag> {
        let length = u16::try_from(state.len()).ok()?;
        let mut context = hmac::Context::with_key(&self.mac);
        for part in [&self.name, iv, &length.to_be_bytes(), state] {
            context.update(part);
        }
        Some(context.sign())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &[u8] = b"a session";
    const NOW: u64 = 1_800_000_000;

    fn key(name: u8, secret: u8) -> Key {
        let mut bytes = [secret; TICKET_KEY_LEN];
        bytes[..NAME_LEN].fill(name);
        Key::new(&bytes).unwrap()
    }

    #[test]
    fn a_key_opens_what_it_sealed() {
        for length in [0, 1, 7, 8, 16, 1000, 65_000] {
            let session = vec![5; length];
            let ticket = key(1, 2).seal(&session, NOW).unwrap();
            assert_eq!(key(1, 2).open(&ticket, NOW), Some(session));
        }
        assert_eq!(key(1, 2).seal(&[0; 1 << 16], NOW), None);
    }

    /// The parts, as RFC 5077 orders them, checked with nothing of ours.
    #[test]
    fn the_ticket_is_that_of_the_rfc() {
        let ticket = key(1, 2).seal(SESSION, NOW).unwrap();
        let again = key(1, 2).seal(SESSION, NOW).unwrap();
        assert_eq!(ticket.len(), 16 + 16 + 32 + 32);
        assert_eq!(ticket[..16], [1; 16]);
        assert_ne!(ticket[16..32], again[16..32], "the vector is random");
        let signed = [&ticket[..32], &[0, 32], &ticket[32..64]].concat();
        let mac = hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]);
        assert!(hmac::verify(&mac, &signed, &ticket[64..]).is_ok());
    }

    #[test]
    fn no_other_ticket_is_opened() {
        let (mine, ticket) = (key(1, 2), key(1, 2).seal(SESSION, NOW).unwrap());
        for length in 0..ticket.len() {
            assert_eq!(mine.open(&ticket[..length], NOW), None, "{length}");
            assert_eq!(mine.open(&ticket[length + 1..], NOW), None, "{length}");
        }
        for bit in 0..ticket.len() * 8 {
            let mut bad = ticket.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(mine.open(&bad, NOW), None, "bit {bit}");
        }
        for more in [1, 15, 16, 1000, 1 << 16, 1 << 20] {
            let bad = [&ticket[..], &vec![0; more]].concat();
            assert_eq!(mine.open(&bad, NOW), None, "{more} more");
        }
        assert_eq!(key(3, 2).open(&ticket, NOW), None, "another name");
        assert_eq!(key(1, 3).open(&ticket, NOW), None, "another secret");
    }

    /// What has the right code is still no session where it has no time.
    #[test]
    fn a_state_without_a_time_is_no_session() {
        let mine = key(1, 2);
        for state in [&b""[..], b"1234567"] {
            let mut state = state.to_vec();
            let context = mine.sealing.encrypt(&mut state).unwrap();
            let iv: &[u8] = (&context).try_into().unwrap();
            let tag = mine.tag(iv, &state).unwrap();
            let ticket = [&mine.name, iv, &state, tag.as_ref()].concat();
            assert_eq!(mine.open(&ticket, NOW), None);
        }
    }

    #[test]
    fn a_ticket_is_good_for_12_hours() {
        let ticket = key(1, 2).seal(SESSION, NOW).unwrap();
        let life = u64::from(LIFETIME);
        for (now, good) in [(0, true), (NOW - 1, true), (NOW + life, true), (NOW + life + 1, false)]
        {
            assert_eq!(key(1, 2).open(&ticket, now).is_some(), good, "{now}");
        }
        assert_eq!(key(1, 2).open(&ticket, u64::MAX), None);
    }
}
