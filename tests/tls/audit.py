#!/usr/bin/env python3
"""Has testssl.sh and sslyze look at our server, in both modes, and judges what they found: no
vulnerability, no weak protocol or suite, nothing they could not find out where it matters.

Needs what run.py needs, testssl.sh, and sslyze, which is installed from PyPI into a virtual
environment in the target folder. AUDIT_LOGS=FOLDER keeps what they wrote."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import venv

import common
import harness
from common import contains, equal, folder, pair, serving

SSLYZE = "sslyze==6.3.1"
STRONG = {
    "1.2": {
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    },
    "1.3": {
        "TLS_AES_256_GCM_SHA384",
        "TLS_AES_128_GCM_SHA256",
        "TLS_CHACHA20_POLY1305_SHA256",
    },
}


def keep(name, text):
    if logs := os.environ.get("AUDIT_LOGS"):
        (pathlib.Path(logs) / name).write_text(text)


def audited(mode):
    """Some probes say nothing for long, many at the same time: all get workers."""
    many = mode if "-n" in mode else ["-t", "64"]
    # Both kinds of key, so that every suite that we have is there to be found.
    both = pair("server") + pair("rsa")
    return serving(many, "--mode", "http", "--alpn", "http/1.1", certificate=both)


# -- testssl.sh -------------------------------------------------------------------------------

# Findings that are not about the server: the certificates are made for these checks by an authority
# that nobody knows, and the headers are the test program's. As for cipher_order: all suites are
# strong, so the client may choose the one that its hardware does best.
NOT_OURS = re.compile(r"cert_|security_headers$|cipher_order$")
VULNERABILITIES = [
    "heartbleed", "CCS", "ticketbleed", "ROBOT", "secure_renego", "secure_client_renego",
    "CRIME_TLS", "POODLE_SSL", "fallback_SCSV", "SWEET32", "FREAK", "DROWN", "LOGJAM", "BEAST",
    "LUCKY13", "RC4",
]  # fmt: skip
NOT_OFFERED = [
    "SSLv2", "SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT",
    "cipherlist_LOW", "cipherlist_3DES_IDEA", "cipherlist_AVERAGE",
]  # fmt: skip
GOOD = {"OK", "INFO"}
# testssl.sh gives s_client an input that is at its end from the start. In TLS 1.3 tickets follow the
# handshake (RFC 8446, 4.6.1), and s_client, if it looks at its input before they are there, leaves
# without them; then there is no session to resume, which testssl.sh calls a connect problem. Most
# of the time it is so with openssl s_server too. Hence an openssl that waits for its session.
OPENSSL = common.HERE / "patient-openssl"


def testssl(mode):
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    assert program, "testssl.sh is not installed"
    output = folder / "testssl.json"
    output.unlink(missing_ok=True)
    with audited(mode) as server:
        argv = [program, "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none"]
        argv += ["--openssl", OPENSSL, "--sneaky", "--jsonfile", output]
        argv += [f"127.0.0.1:{server.port}"]
        done = subprocess.run(
            [str(word) for word in argv],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, timeout=900,
        )  # fmt: skip
        server.events.clear()
        common.works_over_http(server)
    keep(f"testssl-{'-'.join(mode)}.txt", done.stdout)
    findings = json.loads(output.read_text())
    keep(f"testssl-{'-'.join(mode)}.json", output.read_text())
    by_id = {finding["id"]: finding for finding in findings}
    for wanted in VULNERABILITIES:
        found = by_id.get(wanted)
        assert found, f"nothing about {wanted} in {sorted(by_id)}"
        equal((wanted, found["severity"], found["finding"]), (wanted, "OK", found["finding"]))
    for wanted in NOT_OFFERED:
        found = by_id.get(wanted)
        assert found, f"nothing about {wanted} in {sorted(by_id)}"
        equal((wanted, found["finding"]), (wanted, "not offered"))
    for wanted in ["TLS1_2", "TLS1_3", "PFS", "cipherlist_STRONG"]:
        equal((wanted, by_id[wanted]["severity"]), (wanted, "OK"))
    equal(by_id["sessionresumption_ticket"]["finding"], "supported")
    bad = [
        finding
        for finding in findings
        if finding["severity"] not in GOOD and not NOT_OURS.match(finding["id"])
    ]
    equal(bad, [])
    suites = {
        finding["finding"].split()[-1] for finding in findings if re.match("cipher_x", finding["id"])
    }
    equal(sorted(suites), sorted(STRONG["1.2"] | STRONG["1.3"]))


# -- sslyze -----------------------------------------------------------------------------------


def sslyze_program():
    place = harness.TARGET / "audit-venv"
    program = place / "bin" / "sslyze"
    if not program.exists():
        venv.create(place, with_pip=True, clear=True)
        harness.run([str(place / "bin/pip"), "install", "-q", SSLYZE], timeout=600)
    return program


SCANS = [
    "ssl_2_0_cipher_suites", "ssl_3_0_cipher_suites", "tls_1_0_cipher_suites",
    "tls_1_1_cipher_suites", "tls_1_2_cipher_suites", "tls_1_3_cipher_suites", "tls_compression",
    "tls_1_3_early_data", "openssl_ccs_injection", "tls_fallback_scsv", "heartbleed", "robot",
    "session_renegotiation", "elliptic_curves", "tls_extended_master_secret",
]  # fmt: skip


def sslyze(mode):
    output = folder / "sslyze.json"
    output.unlink(missing_ok=True)
    program = sslyze_program()
    with audited(mode) as server:
        argv = [program, "--json_out", output, "--mozilla_config", "disable"]
        argv += ["--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3"]
        argv += ["--compression", "--early_data", "--openssl_ccs", "--fallback", "--heartbleed"]
        argv += ["--robot", "--reneg", "--elliptic_curves", "--ems"]
        argv += [f"127.0.0.1:{server.port}"]
        said = harness.run([str(word) for word in argv], timeout=600)
        server.events.clear()
        common.works_over_http(server)
    keep(f"sslyze-{'-'.join(mode)}.json", output.read_text())
    (scanned,) = json.loads(output.read_text())["server_scan_results"]
    equal(scanned["scan_status"], "COMPLETED")
    results = {}
    for name in SCANS:
        attempt = scanned["scan_result"][name]
        assert attempt["status"] == "COMPLETED", (name, attempt["error_trace"], said)
        results[name] = attempt["result"]
    for old in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]:
        equal((old, results[f"{old}_cipher_suites"]["accepted_cipher_suites"]), (old, []))
    for version in STRONG:
        accepted = results[f"tls_{version.replace('.', '_')}_cipher_suites"]["accepted_cipher_suites"]
        names = {suite["cipher_suite"]["name"] for suite in accepted}
        equal(sorted(names), sorted(STRONG[version]))
        for suite in accepted:
            assert suite["cipher_suite"]["key_size"] >= 128, suite
            assert not suite["cipher_suite"]["is_anonymous"], suite
    equal(results["tls_compression"]["supports_compression"], False)
    equal(results["tls_1_3_early_data"]["supports_early_data"], False)
    equal(results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"], False)
    equal(results["heartbleed"]["is_vulnerable_to_heartbleed"], False)
    contains(results["robot"]["robot_result"], "NOT_VULNERABLE")
    equal(results["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"], False)
    equal(results["session_renegotiation"]["supports_secure_renegotiation"], True)
    equal(results["tls_extended_master_secret"]["supports_ems_extension"], True)
    curves = {curve["name"] for curve in results["elliptic_curves"]["supported_curves"]}
    assert curves and curves <= {"X25519", "secp256r1", "secp384r1"}, curves


if __name__ == "__main__":
    arguments = harness.parse_arguments()
    common.make_certificates()
    checks = [("testssl.sh", testssl), ("sslyze", sslyze)]
    harness.main("tls-audit", common.in_both_modes(checks), arguments.only)
