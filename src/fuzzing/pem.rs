//! Certificates and keys in PEM and DER: whatever a text is, it is taken whole or
//! refused with a sentence that shows nothing of a key.

use super::{cert, key, pem, TlsConfig};
use crate::error::{Error, Status};
use crate::fuzzing::Input;
use rustls::pki_types::PrivateKeyDer;
use x509_cert::der::{Decode, Encode};

/// Judges one input.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    match kind % 4 {
        0 => {
            let len = input.number();
            let (chain, key) = (input.take(len), input.0);
            check_blocks(chain);
            check_key_text(key);
            let tls = TlsConfig::new();
            judge(&tls, tls.add_cert_pem(None, chain, key), key);
        }
        1 => {
            let mut chain = Vec::new();
            for _ in 0..1 + kind / 4 % 4 {
                let len = input.number();
                chain.push(input.take(len));
            }
            let tls = TlsConfig::new();
            judge(&tls, tls.add_cert_der(None, &chain, input.0), input.0);
        }
        2 => {
            let tls = TlsConfig::new();
            if let Err(error) = tls.set_client_ca_pem(input.0, true) {
                assert_eq!(error.status(), Status::Certificate);
            }
        }
        _ => {
            let text = input.0;
            check_blocks(text);
            check_key_text(text);
        }
    }
}

fn judge(tls: &TlsConfig, result: Result<(), Error>, key: &[u8]) {
    match result {
        Ok(()) => {
            tls.server_config().unwrap();
        }
        Err(error) => {
            assert_eq!(error.status(), Status::Certificate);
            hides(&error, key);
            assert_eq!(tls.server_config().unwrap_err().status(), Status::Certificate);
        }
    }
}

/// The message shows nothing of a key: no 20 of its characters in a row that a
/// key in base64 may have.
fn hides(error: &Error, key: &[u8]) {
    let message = error.message();
    assert!(message.len() < 1000 && !message.contains(char::is_control), "{message:?}");
    let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    let words = message.as_bytes().split(|b| !is_base64(*b)).filter(|word| word.len() >= 20);
    for word in words {
        let shown = word.windows(20).any(|part| key.windows(20).any(|other| other == part));
        assert!(!shown, "{message:?}");
    }
}

/// What was read from a text is read from the text that it is written as.
fn check_blocks(text: &[u8]) {
    let Ok(certificates) = pem::certificates(text, "a text") else { return };
    let written: Vec<u8> =
        certificates.iter().flat_map(|(_, der)| written("CERTIFICATE", der)).collect();
    let again = pem::certificates(&written, "a text").unwrap();
    assert!(again.iter().map(|(_, der)| der).eq(certificates.iter().map(|(_, der)| der)));
    for (_, der) in &certificates {
        let _ = cert::subject(der);
        // What is taken as a certificate is all of it.
        if let Ok(parsed) = x509_cert::Certificate::from_der(der) {
            let _ = key::why_not_comparable(&parsed.tbs_certificate.subject_public_key_info);
            assert_eq!(parsed.to_der().unwrap().len(), der.len());
        }
    }
}

fn check_key_text(text: &[u8]) {
    let found = match key::from_pem(text, "a text") {
        Ok(found) => found,
        Err(error) => return hides(&error, text),
    };
    let label = match &found {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let der = found.secret_der();
    let again = key::from_pem(&written(label, der), "a text").unwrap();
    assert!(again.secret_der() == der);
    let why = key::why_unusable(&found);
    assert!(!why.is_empty() && why.len() < 200);
    // A key that the provider takes is read alike without its label.
    if super::provider().key_provider.load_private_key(found.clone_key()).is_ok() {
        if let Ok(plain) = key::from_der(der, "a text") {
            assert!(plain.secret_der() == der);
        }
    }
}

/// Writes a block in lines of 64 characters (RFC 7468).
fn written(label: &str, der: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----").into_bytes();
    for (i, group) in der.chunks(3).enumerate() {
        if i % 16 == 0 {
            text.push(b'\n');
        }
        let bits = group.iter().enumerate().fold(0, |n, (i, b)| n | u32::from(*b) << (16 - 8 * i));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > group.len() { b'=' } else { digit });
        }
    }
    text.extend(format!("\n-----END {label}-----\n").into_bytes());
    text
}
