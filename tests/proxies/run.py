#!/usr/bin/env python3
"""Drives a server behind the proxies of the distribution, HAProxy and nginx, that speak the PROXY
protocol to it: its handler sees the clients' own addresses."""

import contextlib
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from harness import Program, contains, equal

SERVER = harness.c_program("tests-c/proxies", "server")
STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"


@contextlib.contextmanager
def served(mode, certificates, tls, versions, service="127.0.0.1:0", trusted="127.0.0.1"):
    argv = [SERVER] + mode + ["-v", str(versions), "-p", trusted]
    if tls:
        argv += ["-c", f"{certificates}/server.pem", "-k", f"{certificates}/server-key.pem"]
    with Program(argv + [service]) as server:
        where, health = server.expect(r"listening on (\S+), health on \S+:(\d+)").groups()
        server.where, server.health = where, int(health)
        yield server


@contextlib.contextmanager
def haproxy(server, options):
    """HAProxy in front of a server; `options` are those of its `server` line."""
    port, where = harness.free_port(), server.where
    if where.startswith("unix:"):
        where = "unix@" + where[len("unix:"):]
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        file = pathlib.Path(folder, "haproxy.cfg")
        file.write_text(f"""
global
    stats socket {folder}/stats mode 600 level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{port}
    unique-id-format %ci_%cp
    tcp-request inspect-delay 5s
    tcp-request content accept if WAIT_END || {{ req.len gt 0 }}
    default_backend servers
backend servers
    server one {where} {options.replace("HEALTH", str(server.health))}
""")
        with Program(["haproxy", "-db", "-f", str(file)], valgrind=False) as proxy:
            harness.connect_when_listening(port).close()
            proxy.port_of_clients, proxy.stats = port, f"{folder}/stats"
            yield proxy
            proxy.process.terminate()
            proxy.process.wait(harness.patience)


@contextlib.contextmanager
def nginx(server):
    port = harness.free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-") as folder:
        file = pathlib.Path(folder, "nginx.conf")
        file.write_text(f"""
load_module {STREAM};
pid {folder}/pid;
error_log stderr;
daemon off;
master_process off;
events {{}}
stream {{
    server {{
        listen 127.0.0.1:{port};
        proxy_pass {server.where};
        proxy_protocol on;
    }}
}}
""")
        argv = ["nginx", "-p", folder, "-c", str(file), "-e", "stderr"]
        with Program(argv, valgrind=False) as proxy:
            harness.connect_when_listening(port).close()
            proxy.port_of_clients = port
            yield proxy
            proxy.process.terminate()
            proxy.process.wait(harness.patience)


def ask(proxy, certificates, tls):
    """What the server says of a new client, and the client's own address."""
    with harness.connect(proxy.port_of_clients) as client:
        own = "%s:%d" % client.getsockname()
        if tls:
            context = ssl.create_default_context(cafile=f"{certificates}/ca.pem")
            client = context.wrap_socket(client, server_hostname="localhost")
        client.sendall(b"who am I?\n")
        said = client.makefile().readline().split()
        client.close()
    return said, own


def expect_clients(proxy, certificates, tls, transport="127.0.0.1"):
    """The answers to twenty clients; each names the client's own port."""
    answers = []
    for _ in range(20):
        said, own = ask(proxy, certificates, tls)
        equal(len(said), 5)
        equal((said[0], said[1]), (own, f"127.0.0.1:{proxy.port_of_clients}"))
        if not said[2].startswith(transport) or said[2] == own:
            raise AssertionError(f"the proxy's address is {said[2]}")
        answers.append(said)
    return answers


def check_status(proxy):
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(harness.patience)
        control.connect(proxy.stats)
        control.sendall(b"show stat\n")
        lines = control.makefile().read().splitlines()
    names = lines[0].lstrip("# ").split(",")
    row = next(line.split(",") for line in lines if line.startswith("servers,one,"))
    return dict(zip(names, row))


def wait_for_checks(proxy, count=3):
    """Until HAProxy has had `count` good checks after the start; none fails."""
    end = time.monotonic() + harness.patience
    while True:
        try:
            found = check_status(proxy)
        except FileNotFoundError:  # HAProxy makes the file after it listens
            found = {"status": "none", "check_status": "none"}
        if found["check_status"] in ("L4OK", "L6OK", "L7OK") and found["status"].startswith("UP"):
            count -= 1
            if count == 0:
                return equal(found["chkfail"], "0")
        if time.monotonic() > end:
            raise AssertionError(f"the checks say {found['status']}, {found['check_status']}")
        time.sleep(0.2)  # HAProxy announces no check: its file is all that there is


def refused(server):
    """How many connections the server's report counts as refused for their headers."""
    report = server.stop()
    found = re.search(r"closed \(proxy\): (\d+)", report)
    return int(found[1]) if found else 0


def by_haproxy(mode, certificates, tls, versions, options):
    with served(mode, certificates, tls, versions) as server:
        with haproxy(server, options) as proxy:
            answers = expect_clients(proxy, certificates, tls)
            if "unique-id" in options:
                for said in answers:
                    equal(said[4], said[0].replace(":", "_"))
        equal(refused(server), 0)


def with_checks(mode, certificates, tls, versions, options):
    """The checks of HAProxy send a header too, and none is refused."""
    with served(mode, certificates, tls, versions) as server:
        with haproxy(server, options + " check inter 100ms") as proxy:
            wait_for_checks(proxy)
            expect_clients(proxy, certificates, tls)
        equal(refused(server), 0)


@contextlib.contextmanager
def unix_socket():
    with tempfile.TemporaryDirectory(prefix="unix-") as folder:
        yield f"unix:{folder}/socket"


def on_a_unix_socket(mode, certificates, versions, options):
    with unix_socket() as service:
        with served(mode, certificates, False, versions, service, "unix") as server:
            with haproxy(server, options) as proxy:
                expect_clients(proxy, certificates, False, transport="unix:")
            equal(refused(server), 0)


def from_an_untrusted_proxy(mode, certificates):
    with served(mode, certificates, False, 3, trusted="192.0.2.0/24") as server:
        with haproxy(server, "send-proxy-v2") as proxy:
            equal(ask(proxy, certificates, False)[0], [])
        contains(server.stderr(), "NS_ERR_PROXY: the source is no trusted proxy")
        equal(refused(server) > 0, True)


def of_the_other_version(mode, certificates):
    with served(mode, certificates, False, 2) as server:
        with haproxy(server, "send-proxy") as proxy:
            equal(ask(proxy, certificates, False)[0], [])
        contains(server.stderr(), "NS_ERR_PROXY: the PROXY header is refused: version 1")
        equal(refused(server) > 0, True)


def by_nginx(mode, certificates, tls, versions):
    with served(mode, certificates, tls, versions) as server:
        with nginx(server) as proxy:
            expect_clients(proxy, certificates, tls)
        # One connection was only to see that nginx listens.
        equal(refused(server), 0)


def checks(certificates):
    modes = [("blocking", ["-t", "4"]), ("loops", ["-n", "-t", "2"])]
    options = [
        ("send-proxy", 1, "send-proxy"),
        ("send-proxy-v2", 2, "send-proxy-v2"),
        ("send-proxy, both", 3, "send-proxy"),
        ("send-proxy-v2 with extras", 3,
         "send-proxy-v2 proxy-v2-options crc32c,unique-id,ssl,authority"),
    ]
    all_checks = []

    def add(title, function, *arguments):
        all_checks.append((title, lambda: function(*arguments)))

    for name, mode in modes:
        for kind, tls in [("plain", False), ("TLS", True)]:
            for title, versions, line in options:
                add(f"HAProxy: {title}, {kind}, {name}", by_haproxy, mode, certificates, tls,
                    versions, line)
            add(f"nginx: {kind}, {name}", by_nginx, mode, certificates, tls, 1)
        for title, versions, line in options[:2]:
            add(f"HAProxy: {title}, check-send-proxy, {name}", with_checks, mode, certificates,
                False, versions, line + " check-send-proxy")
            add(f"HAProxy: {title}, check of a health port, {name}", with_checks, mode,
                certificates, False, versions, line + " port HEALTH")
            add(f"HAProxy: {title}, unix, {name}", on_a_unix_socket, mode, certificates, versions,
                line)
        add(f"HAProxy: not trusted, {name}", from_an_untrusted_proxy, mode, certificates)
        add(f"HAProxy: the other version, {name}", of_the_other_version, mode, certificates)
    return all_checks


arguments = harness.parse_arguments()
with tempfile.TemporaryDirectory(prefix="certificates-") as certificates:
    harness.run([str(harness.ROOT / "tests" / "make-certs"), certificates])
    harness.main("proxies", checks(certificates), arguments.only)
