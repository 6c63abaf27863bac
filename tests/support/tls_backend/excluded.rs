//! The tests that make no sense over TLS.

const REFUSED: &str = "a refused connection has had no handshake, so that nothing can be said on \
                       it: only_tls::a_refusal_is_no_plain_text takes their place";

/// Their names within the suite, and why.
pub const EXCLUDED: &[(&str, &str)] = &[
    (
        "by_id::broadcast_shares_one_copy",
        "every connection has its own ciphertext; the plain text is shared until it is encrypted",
    ),
    (
        "detach::the_descriptor_can_be_released",
        "a bare descriptor is given of plain connections only",
    ),
    (
        "non_blocking::urgent_data_holds_nothing_up",
        "urgent data is TCP's; within a TLS record it would break the record",
    ),
    ("waiting::a_refusal_is_not_lost_to_a_reset", REFUSED),
    ("waiting::beyond_max_waiting_refused_at_once", REFUSED),
    ("waiting::refused_after_the_retries", REFUSED),
    ("waiting::refused_without_an_exception_handler", REFUSED),
];
