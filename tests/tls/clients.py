"""Clients of other makers: OpenSSL, curl, GnuTLS, Python's ssl, Node, Java."""

import json
import re

import harness
from common import (
    HERE, MEGABYTE, ask_info, close_cleanly, contains, context, echoed, equal, folder, pem,
    read_line, serving, talk, tls,
)

VERSIONS = ["1.2", "1.3"]
CLIENT_CA = ["--client-ca", pem("ca")]
SUBJECT = "CN=ann,O=Example\\, Inc."


def info_in(output):
    """The JSON line that the server printed into a client's output."""
    match = re.search(r'\{"version":.*\}', output)
    if not match:
        raise AssertionError(output)
    return json.loads(match[0])


def lines_server(mode, *options, certificate=None):
    return serving(mode, "--mode", "lines", *options, certificate=certificate)


# -- openssl s_client -------------------------------------------------------------------------


def s_client(server, version, *options, lines=("info", "quit")):
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", pem("ca")]
    argv += ["-servername", "localhost", "-verify_return_error", "-tls" + version.replace(".", "_")]
    output, _ = talk([*argv, *options], lines, "\0never")
    return output


def openssl(mode, version):
    with lines_server(mode) as server:
        output = s_client(server, version)
        contains(output, "Verify return code: 0 (ok)")
        contains(output, f"New, TLSv{version}, Cipher is ")
        suite = re.search(r"Cipher is (\S+)", output)[1]
        info = info_in(output)
        equal((info["version"], info["server_name"], info["resumed"]), (version, "localhost", False))
        names = harness.run(["openssl", "ciphers", "-stdname", "ALL"])
        contains(names, f"{info['cipher_suite']} ")
        assert re.search(rf"^{info['cipher_suite']} +- {suite} ", names, re.M), (suite, info)
        server.no_exception()


def openssl_suites(mode):
    """K24: Each suite that we offer, and none of those that we do not."""
    good = {
        "1.3": ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"],
        "1.2": ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"]
        + ["ECDHE-ECDSA-CHACHA20-POLY1305"],
    }
    bad = ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"]
    bad += ["DHE-RSA-AES128-GCM-SHA256", "AECDH-AES128-SHA", "NULL-SHA256", "ECDHE-ECDSA-AES128-CCM"]
    with lines_server(mode) as server:
        for version, suites in good.items():
            for suite in suites:
                option = "-ciphersuites" if version == "1.3" else "-cipher"
                contains(s_client(server, version, option, suite), f"Cipher is {suite}")
        server.no_exception()
        for suite in bad:
            contains(s_client(server, "1.2", "-cipher", suite + ":@SECLEVEL=0"), "handshake failure")
            server.exception("NS_ERR_HANDSHAKE")
    with lines_server(mode) as server:
        for version in ["1", "1.1"]:
            output = s_client(server, version, "-cipher", "ALL:@SECLEVEL=0")
            # Without its extensions an old ClientHello may fail before its version is looked at.
            assert re.search("alert (protocol version|handshake failure)", output), output
            server.exception("NS_ERR_HANDSHAKE")


def openssl_resumption(mode, version):
    session = folder / "session.pem"
    with lines_server(mode) as server:
        output = s_client(server, version, "-sess_out", session)
        contains(output, f"New, TLSv{version}")
        for _ in range(2):
            output = s_client(server, version, "-sess_in", session)
            contains(output, f"Reused, TLSv{version}")
            equal(info_in(output)["resumed"], True)
        # Keys of tickets go with the configuration: a full handshake, no failure.
        equal(server.reload("server")["status"], "NS_OK")
        output = s_client(server, version, "-sess_in", session)
        contains(output, f"New, TLSv{version}")
        server.no_exception()


def openssl_many_resumptions(mode, version):
    """Each with what the one before was given."""
    session = folder / "many-sessions.pem"
    with lines_server(mode) as server:
        s_client(server, version, "-sess_out", session)
        for count in range(1, 51):
            output = s_client(server, version, "-sess_in", session, "-sess_out", session)
            assert f"Reused, TLSv{version}" in output, (count, output)
            equal(info_in(output)["resumed"], True)
        stats = server.stats()
        equal((stats["handshakes"], stats["handshake_failures"]), (51, 0))
        server.no_exception()


def openssl_session_cache(mode):
    """TLS 1.2 without tickets: only where the server keeps sessions."""
    session = folder / "session.pem"
    for options, expected in [(["--cache", "100"], "Reused"), ([], "New")]:
        with lines_server(mode, *options) as server:
            s_client(server, "1.2", "-no_ticket", "-sess_out", session)
            output = s_client(server, "1.2", "-no_ticket", "-sess_in", session)
            contains(output, f"{expected}, TLSv1.2")


def openssl_client_certificate(mode, version):
    with lines_server(mode, *CLIENT_CA) as server:
        own = ["-cert", pem("client"), "-key", pem("client-key")]
        info = info_in(s_client(server, version, *own))
        equal(info["peer_subject"], SUBJECT)
        server.no_exception()
        assert '{"version"' not in s_client(server, version)
        server.exception("NS_ERR_HANDSHAKE", "no certificates")


def openssl_chain(mode):
    """Everything in the file is sent."""
    with lines_server(mode, certificate=["--cert", pem("leaf-chain"), "--key", pem("leaf-key")]) as server:
        output = s_client(server, "1.3", "-showcerts")
        equal(output.count("-----BEGIN CERTIFICATE-----"), 2)
        contains(output, "Verify return code: 0 (ok)")


def openssl_big(mode, version):
    with lines_server(mode) as server:
        output = s_client(server, version, "-quiet", lines=["big 3000000", "quit"])
        equal(output.count("x" * 1000), 3000)


# -- curl -------------------------------------------------------------------------------------


def curl(server, version, *options):
    argv = ["curl", "-sS", "--fail", "--cacert", pem("ca"), "--noproxy", "*", "--max-time", "20"]
    argv += [f"--tlsv{version}", "--tls-max", version]
    argv += ["--resolve", f"localhost:{server.port}:127.0.0.1"]
    return harness.run([str(word) for word in [*argv, *options]])


def curl_http(mode, version):
    with serving(mode, "--mode", "http", "--alpn", "http/1.1") as server:
        base = f"https://localhost:{server.port}"
        info = json.loads(curl(server, version, f"{base}/"))
        equal((info["version"], info["alpn"], info["server_name"]), (version, "http/1.1", "localhost"))
        equal(len(curl(server, version, f"{base}/bytes/5000000")), 5_000_000)
        before = server.stats()["handshakes"]
        both = curl(server, version, f"{base}/bytes/10", f"{base}/bytes/70000", f"{base}/close")
        equal(both[:70010], "x" * 70010)
        equal(server.stats()["handshakes"], before + 1)  # kept alive
        curl(server, version, "-X", "POST", "--data", "a=b", f"{base}/close")
        server.no_exception()


def curl_client_certificate(mode, version):
    with serving(mode, "--mode", "http", *CLIENT_CA) as server:
        base = f"https://localhost:{server.port}/close"
        own = ["--cert", pem("client"), "--key", pem("client-key")]
        equal(json.loads(curl(server, version, *own, base))["peer_subject"], SUBJECT)
        try:
            curl(server, version, base)
        except AssertionError as e:
            # A failed handshake, a failed read behind it, or just this: no certificate.
            assert re.search(r"exit status (35|56|98)\b", str(e)), e
        else:
            raise AssertionError("served without a certificate")
        server.exception("NS_ERR_HANDSHAKE", "no certificates")


# -- gnutls-cli -------------------------------------------------------------------------------


def gnutls(server, version, *options, until='"peer_subject"'):
    argv = ["gnutls-cli", "--x509cafile", pem("ca"), "--sni-hostname", "localhost"]
    argv += ["--verify-hostname", "localhost", "-p", server.port]
    argv += ["--priority", f"NORMAL:-VERS-ALL:+VERS-TLS{version}", *options, "127.0.0.1"]
    return talk(argv, ["info", "quit"], "\0never")[0]


def gnutls_both_versions(mode, version):
    with lines_server(mode, "--alpn", "x/1,y/1") as server:
        output = gnutls(server, version, "--alpn", "y/1")
        contains(output, "The certificate is trusted")
        contains(output, f"TLS{version}")
        info = info_in(output)
        equal((info["version"], info["alpn"], info["server_name"]), (version, "y/1", "localhost"))
        contains(output, "Peer has closed the GnuTLS connection")  # close_notify came
        server.no_exception()


def gnutls_resumption(mode, version):
    with lines_server(mode) as server:
        output = gnutls(server, version, "--resume")
        contains(output, "This is a resumed session")
        equal(info_in(output.split("This is a resumed session")[1])["resumed"], True)
        server.no_exception()


def gnutls_client_certificate(mode, version):
    with lines_server(mode, *CLIENT_CA) as server:
        own = ["--x509certfile", pem("client"), "--x509keyfile", pem("client-key")]
        equal(info_in(gnutls(server, version, *own))["peer_subject"], SUBJECT)
        server.no_exception()
        output = gnutls(server, version)
        assert '{"version"' not in output, output
        server.exception("NS_ERR_HANDSHAKE", "no certificates")


# -- Python's ssl -----------------------------------------------------------------------------


def python(mode, version):
    with serving(mode) as server:
        with tls(server.port, context(version)) as client:
            equal(client.version(), f"TLSv{version}")
            client.sendall(b"hello\n")
            equal(read_line(client), "hello")
            echoed(client, MEGABYTE)
            close_cleanly(client)
        server.event("end")
        server.event("close", reason="peer")
        server.no_exception()


def python_resumption(mode, version):
    with lines_server(mode) as server:
        made = context(version)
        session = None
        for resumed in [False, True, True]:
            with tls(server.port, made, session=session) as client:
                equal(ask_info(client)["resumed"], resumed)
                equal(client.session_reused, resumed)
                session = client.session
                close_cleanly(client)
        server.no_exception()


# -- Node -------------------------------------------------------------------------------------


def node_run(server, version, alpn="-", certificate=()):
    argv = ["node", HERE / "node_client.js", server.port, pem("ca"), version, alpn, *certificate]
    output, status = talk(argv, [], "\0never")
    return [json.loads(line) for line in output.splitlines()], status


def node(mode, version):
    with lines_server(mode, "--alpn", "x/1,y/1") as server:
        (first, second), status = node_run(server, version, "z/1,y/1")
        equal(status, 0)
        for result, resumed in [(first, False), (second, True)]:
            equal((result["protocol"], result["alpn"]), (f"TLSv{version}", "y/1"))
            equal((result["authorized"], result["big"]), (True, 1 << 20))
            equal((result["reused"], result["info"]["resumed"]), (resumed, resumed))
        server.no_exception()


def node_client_certificate(mode, version):
    with lines_server(mode, *CLIENT_CA) as server:
        results, status = node_run(server, version, "-", [pem("client"), pem("client-key")])
        equal(status, 0)
        equal([result["info"]["peer_subject"] for result in results], [SUBJECT] * 2)
        server.no_exception()
        (result,), status = node_run(server, version)
        equal(status, 1)
        contains(result["error"], "ERR_SSL_")
        server.exception("NS_ERR_HANDSHAKE", "no certificates")


# -- Java -------------------------------------------------------------------------------------


def java_run(server, version, alpn="-", certificate=()):
    argv = ["java", HERE / "JavaClient.java", server.port, pem("ca"), version, alpn, *certificate]
    return talk(argv, [], "\0never", seconds=60)


def java(mode, version):
    with lines_server(mode, "--alpn", "x/1,y/1") as server:
        output, status = java_run(server, version, "z/1,y/1")
        assert status == 0, output
        equal(re.findall(r"^\S+ \S+", output, re.M), [f"TLSv{version} [y/1]"] * 2)
        resumed = [info_in(line)["resumed"] for line in output.splitlines()]
        equal(resumed, [False, True])
        server.no_exception()


def java_client_certificate(mode, version):
    with lines_server(mode, *CLIENT_CA) as server:
        output, status = java_run(server, version, "-", [pem("client"), pem("client-key")])
        assert status == 0, output
        equal(info_in(output)["peer_subject"], SUBJECT)
        server.no_exception()
        output, status = java_run(server, version)
        equal(status, 1)
        contains(output, "refused: ")
        server.exception("NS_ERR_HANDSHAKE", "no certificates")


def checks():
    for version in VERSIONS:
        for title, check in [
            ("openssl s_client", openssl),
            ("openssl s_client resumes", openssl_resumption),
            ("openssl s_client resumes 50 times", openssl_many_resumptions),
            ("openssl s_client with a certificate", openssl_client_certificate),
            ("openssl s_client receives megabytes", openssl_big),
            ("curl", curl_http),
            ("curl with a certificate", curl_client_certificate),
            ("gnutls-cli", gnutls_both_versions),
            ("gnutls-cli resumes", gnutls_resumption),
            ("gnutls-cli with a certificate", gnutls_client_certificate),
            ("Python", python),
            ("Python resumes", python_resumption),
            ("Node", node),
            ("Node with a certificate", node_client_certificate),
            ("Java", java),
            ("Java with a certificate", java_client_certificate),
        ]:
            yield f"{title}, TLS {version}", (lambda mode, c=check, v=version: c(mode, v))
    yield "suites and versions", openssl_suites
    yield "openssl s_client resumes without tickets", openssl_session_cache
    yield "openssl s_client gets the whole chain", openssl_chain
