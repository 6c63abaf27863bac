#!/usr/bin/env python3
"""Plants changes in a copy of the header, and checks which of them scripts/abi calls a break."""

import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import contains, run

HEADER = harness.ROOT / "include/netserver.h"
scratch = tempfile.TemporaryDirectory(prefix="netserver-abi-")

# What breaks programs: a title, a pattern of the header, what takes its place, what is reported.
BREAKS = [
    ("a function is gone", r"^void ns_tls_free\(ns_tls \*tls\);", "", "ns_tls_free"),
    ("an argument more", r"(ns_tls_free\(ns_tls \*tls)", r"\1, int32_t how", "ns_tls_free"),
    ("another type of an argument", r"(ns_config_set_max_thread\(ns_config \*config, )uint32_t",
     r"\1uint64_t", "ns_config_set_max_thread"),
    ("another type of a result", r"^size_t (ns_socket_tls_peer_subject)", r"uint32_t \1",
     "ns_socket_tls_peer_subject"),
    ("a member in the middle", r"(int32_t resumed;)", r"\1 int32_t more;", "ns_tls_info"),
    ("a member of another size", r"cipher_suite\[64\]", "cipher_suite[32]", "ns_tls_info"),
    ("an argument of a callback", r"(\(\*ns_close_fn\)\(ns_server \*server,)", r"\1 int32_t more,",
     "ns_close_fn"),
    ("another value of a constant", r"(#define NS_ERR_TLS) -1024", r"\1 -1099", "NS_ERR_TLS"),
    ("a constant is gone", r"#define NS_ERR_TLS -1024", "", "NS_ERR_TLS"),
]
# What breaks none.
GOOD = [
    ("a function more", r"^(void ns_tls_free\(ns_tls \*tls\);)", r"\1 void ns_more(ns_tls *tls);"),
    ("a constant more", r"(#define NS_ERR_TLS -1024)", r"\1\n#define NS_ERR_MORE -1099"),
    ("a member at the end of what has a size", r"(char server_name\[256\];)", r"\1 int32_t more;"),
    ("another name of an argument", r"ns_tls_free\(ns_tls \*tls\)", "ns_tls_free(ns_tls *object)"),
    ("nothing", "#define NS_ERR_TLS", "#define NS_ERR_TLS"),
]


def compare(pattern, replacement, status):
    changed, count = re.subn(pattern, replacement, HEADER.read_text(), flags=re.M)
    assert count == 1, f"{count} places in the header"
    new = pathlib.Path(scratch.name) / "new.h"
    new.write_text(changed)
    return run([str(harness.ROOT / "scripts/abi"), str(HEADER), str(new)], expected=status)


def is_break(pattern, replacement, reported):
    said = compare(pattern, replacement, 1)
    contains(said, reported)
    contains(said, "abi: this breaks programs")


def is_good(pattern, replacement):
    contains(compare(pattern, replacement, 0), "abi: nothing breaks")


harness.main(
    "abi",
    [(title, lambda rest=rest: is_break(*rest)) for title, *rest in BREAKS]
    + [(title, lambda rest=rest: is_good(*rest)) for title, *rest in GOOD],
    harness.parse_arguments().only,
)
