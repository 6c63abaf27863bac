"""The workloads over TLS 1.3. The goals are ratios to OpenSSL over epoll with its own defaults. The
other peers are OpenSSL set to read ahead, and rustls over mio."""

import subprocess

from common import ROOT, TARGET, build, calls_per_operation, compare, idle_memory, peer
from report import OURS, Goal, Workload, amounts, costs

FLOOR = "OpenSSL"
IDLE = 2000  # connections
MEMORY_GOAL = 9.0  # KiB of each of them


def starts(args):
    """Makes a certificate and returns the command lines of the servers by name."""
    folder = TARGET / "throwaway-cert"
    subprocess.run([ROOT / "scripts" / "throwaway-cert", folder], check=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    servers = {
        OURS: [args.ours, "-n", "--cert", cert, "--key", key, "127.0.0.1:0"],
        FLOOR: [build("tls_openssl"), cert, key],
    }
    if not args.quick:
        servers["OpenSSL reading ahead"] = [build("tls_openssl"), "-r", cert, key]
        servers["rustls_mio"] = [peer("rustls_mio"), cert, key]
    return servers


def workload(title, options, what, most, quick=False):
    def measure(args, title):
        servers = starts(args)
        results = compare(args, servers, options)
        ciphers = {burst["cipher"] for bursts in results.values() for burst in bursts}
        if len(ciphers) != 1:
            raise RuntimeError(f"they do different work: {ciphers}")
        calls = {name: calls_per_operation(args, argv, options) for name, argv in servers.items()}
        method = f"An operation is {what}. One loop; {ciphers.pop()}."
        return costs(title, method, results, calls, FLOOR, most)

    return Workload(title, measure, quick)


def memory(args, title):
    servers = starts(args).items()
    values = {name: idle_memory(args, argv, ["-t"], IDLE) / 1024 for name, argv in servers}
    method = (
        f"How the server's anonymous memory grows with {IDLE:,} connections that shook hands, "
        "echoed one message each and then idle, divided by them."
    )
    goal = Goal("memory of an idle connection", values[OURS], MEMORY_GOAL, "KiB")
    return amounts(title, method, values, "KiB", FLOOR, goal)


ECHO = "a message there and back on a lasting connection"
CHURN = "a connection of one message of 64 B, 4 at a time, each with"

WORKLOADS = [
    workload("TLS full handshake", ["-t", "-c", "4", "churn"], f"{CHURN} a full handshake", 0.55),
    workload("TLS resumed handshake", ["-r", "-c", "4", "churn"], f"{CHURN} a resumption", 0.60),
    workload("TLS echo 64 B, 1 connection", ["-t", "echo"], ECHO, 0.95, quick=True),
    workload("TLS echo 64 B, 64 connections", ["-t", "-c", "64", "echo"], ECHO, 0.95),
    workload("TLS echo 1 MiB, 1 connection", ["-t", "-s", "1048576", "echo"], ECHO, 0.75),
    Workload("TLS memory of an idle connection", memory),
]
