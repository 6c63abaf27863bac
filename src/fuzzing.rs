//! The targets of `make fuzz` for what no program can call by itself, each with
//! what must hold for every input. They are no part of the library: a build has
//! them only with `--cfg fuzzing`, and for the tests, which replay the inputs of
//! `fuzz/corpus`.
//!
//! Each target is a child of the module that it tests, so that it reaches what is
//! private there.

#![forbid(unsafe_code)]

pub use crate::outbuf::fuzzing::target as outbuf;
pub use crate::proxy::fuzzing::target as proxy;
pub use crate::service::fuzzing::target as service;
#[cfg(feature = "tls")]
pub use crate::tls::{pem_fuzzing as pem, session_fuzzing as session};

/// The bytes of an input, from which a target takes what it needs.
pub(crate) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a byte; 0 after the end.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// Takes two bytes.
    pub fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// Takes so many bytes, or what is left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(name: &str, target: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(result.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "{folder:?} is empty");
    }

    #[test]
    fn corpus_of_service() {
        replay("service", super::service);
    }

    #[test]
    fn corpus_of_outbuf() {
        replay("outbuf", super::outbuf);
    }

    #[test]
    fn corpus_of_proxy() {
        replay("proxy", super::proxy);
    }

    #[test]
    #[cfg(feature = "tls")]
    fn corpus_of_pem() {
        replay("pem", super::pem);
    }

    #[test]
    #[cfg(feature = "tls")]
    fn corpus_of_session() {
        replay("session", super::session);
    }
}
