"""Certificates, and what belongs to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from ._enums import Status, TLSVersion
from ._errors import InvalidError, Reported, check, for_c
from ._native import ffi, lib

Path = Union[str, "os.PathLike[str]"]


class TLS:
    """Certificates and what belongs to them: for `Server(tls=…)`, `reload_tls` and `starttls`.

    The first use freezes it. One object may serve several servers.
    """

    def __init__(
        self,
        certificate: Optional[Path] = None,
        key: Optional[Path] = None,
        *,
        client_ca: Optional[Path] = None,
        client_required: bool = True,
        alpn: Sequence[str] = (),
        min_version: TLSVersion = TLSVersion.TLS_1_2,
        tickets: bool = True,
        session_cache: int = 0,
        ticket_keys: Optional[bytes] = None,
    ) -> None:
        """`certificate` and `key` are PEM files: a chain, the own certificate first, and its key.

        `client_ca`: ask clients for a certificate of these authorities (PEM), and refuse those
        without one if `client_required`. `alpn`: the protocols that the server speaks, the preferred
        one first. `tickets`, `session_cache` (how many sessions) and `ticket_keys` (see
        `set_ticket_keys`) say how sessions resume.
        """
        self._pointer = ffi.gc(lib.ns_tls_new(), lib.ns_tls_free)
        if certificate is not None or key is not None:
            if certificate is None or key is None:
                raise TypeError("a certificate and its key belong together")
            self.add_certificate(certificate, key)
        if client_ca is not None:
            self.set_client_ca(client_ca, required=client_required)
        if alpn:
            self.set_alpn(alpn)
        check(lib.ns_tls_set_min_version(self._pointer, min_version))
        check(lib.ns_tls_set_tickets(self._pointer, tickets))
        check(lib.ns_tls_set_session_cache(self._pointer, session_cache))
        if ticket_keys is not None:
            self.set_ticket_keys(ticket_keys)

    def add_certificate(
        self, certificate: Path, key: Path, server_name: Optional[str] = None
    ) -> None:
        """Adds a chain and its key from PEM files, for clients that ask for `server_name`
        ("example.org", "*.example.org"); None: for all other names."""
        reported, files = Reported(), (_file(certificate), _file(key))
        lib.ns_tls_add_cert_file(self._pointer, _name(server_name), *files, reported.pointer)
        reported.check()

    def add_certificate_pem(
        self, certificate: bytes, key: bytes, server_name: Optional[str] = None
    ) -> None:
        """`add_certificate` with PEM text in memory."""
        reported = Reported()
        texts = certificate, len(certificate), key, len(key)
        lib.ns_tls_add_cert_pem(self._pointer, _name(server_name), *texts, reported.pointer)
        reported.check()

    def add_certificate_der(
        self, chain: Sequence[bytes], key: bytes, server_name: Optional[str] = None
    ) -> None:
        """`add_certificate` with certificates and a key in DER."""
        reported, kept = Reported(), [ffi.from_buffer(each) for each in chain]
        items = ffi.new("void *[]", kept), [len(each) for each in chain], len(chain), key, len(key)
        lib.ns_tls_add_cert_der(self._pointer, _name(server_name), *items, reported.pointer)
        reported.check()

    def set_client_ca(self, authorities: Path, *, required: bool = True) -> None:
        """Asks clients for a certificate of these authorities (a PEM file)."""
        reported, file = Reported(), _file(authorities)
        lib.ns_tls_set_client_ca_file(self._pointer, file, required, reported.pointer)
        reported.check()

    def set_client_ca_pem(self, authorities: bytes, *, required: bool = True) -> None:
        """`set_client_ca` with PEM text in memory."""
        reported, text = Reported(), (authorities, len(authorities))
        lib.ns_tls_set_client_ca_pem(self._pointer, *text, required, reported.pointer)
        reported.check()

    def set_alpn(self, protocols: Sequence[str]) -> None:
        """Sets the application protocols that the server speaks, the preferred one first."""
        kept = [ffi.new("char[]", for_c(protocol)) for protocol in protocols]
        check(lib.ns_tls_set_alpn(self._pointer, kept, len(kept)))

    def set_ticket_keys(self, keys: bytes) -> None:
        """Sets the keys of tickets, with which other processes resume the sessions of this one: 1 to
        16 keys of 80 random bytes, one behind the other. The first seals tickets, each opens those
        that it sealed, for 12 hours. At any time, also when the object is in use: to rotate, give all
        processes the new key as the second one, then as the first. A key is as secret as the
        certificate's."""
        status = lib.ns_tls_set_ticket_keys(self._pointer, keys, len(keys))
        if status == Status.INVALID:
            raise InvalidError(f"ticket keys are 1 to 16 times 80 bytes, not {len(keys)}")
        check(status)


class TLSInfo(NamedTuple):
    """What a TLS handshake agreed."""

    version: TLSVersion
    resumed: bool
    cipher_suite: str
    alpn: Optional[str]
    server_name: Optional[str]


def _name(server_name: Optional[str]) -> object:
    return ffi.NULL if server_name is None else for_c(server_name)


def _file(path: Path) -> bytes:
    return for_c(os.fsencode(path))
