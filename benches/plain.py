"""The workloads over plain TCP. The library runs beside its peers. The floors are two servers that
make system calls alone: raw_epoll for event loops, raw_pool for the blocking mode."""

import os
import pathlib
import re
import signal
import socket
import statistics
import tempfile

from common import (
    STEP_TIMEOUT_S, Load, Server, build, calls_per_operation, compare, example, hosts_congestion,
    idle_memory, peer,
)  # fmt: skip
from report import OURS, Goal, Section, Workload, amounts, costs, number, ratio_text

LOOPS = [
    "raw_epoll", "libuv", "libevent", "bufferevent", "libev", "asio", "mio_echo", "tokio_echo",
]  # fmt: skip
QUICK = ["raw_epoll", "raw_pool", "libuv", "mio_echo"]

IDLE = 10_000  # connections
RUNS = (64 * 16, 64 * 172)  # messages of the two runs whose difference is counted
QUIET = 4  # quiet connections
QUIET_MESSAGES = 500  # messages in a burst of the quiet connections


def starts(args, ours, peers, options=()):
    """Returns command lines by name: that of ours with its options, those of the peers with
    theirs."""
    kept = [name for name in peers if name in QUICK or not args.quick]
    return {
        OURS: [args.ours, *ours, "127.0.0.1:0"],
        **{name: [peer(name), *options] for name in kept},
    }


def loops(args):
    return starts(args, ["-n"], LOOPS)


def run_last(load):
    """Makes the load run only while nothing else on its core wants to run."""
    os.sched_setscheduler(load.pid, os.SCHED_IDLE, os.sched_param(0))


# -- processor time and system calls ----------------------------------------------------------


def cost(args, title, method, servers, options, *goals, **how):
    calls = {name: calls_per_operation(args, argv, options, **how)
             for name, argv in servers.items()}  # fmt: skip
    results = compare(args, servers, options, **how)
    return costs(title, method, results, calls, list(servers)[1], *goals)


def echo(title, options, *goals, quick=False):
    """The goals are that of processor time and, optionally, that of system calls."""
    connections = int(options[options.index("-c") + 1]) if "-c" in options else 1

    def measure(args, title):
        method = "An operation is a message there and back. Lasting connections; one loop."
        least = 2 * connections
        return cost(args, title, method, loops(args), [*options, "echo"], *goals, least=least)

    return Workload(title, measure, quick)


def paced_stream(args, title):
    options, goal = ["-s", "1048576", "echo"], 0.68
    with hosts_congestion() as name:
        method = (
            f"The same with the congestion control that the host's network has, {name}, in place "
            "of reno. Where it paces, more input has gathered when the server comes to run."
        )
        return cost(args, title, method, loops(args), options, goal)


def echo_on_two_cores(args, title):
    method = "The same with both cores for everything: the cost of waking each other is in it."
    options = ["-c", "64", "echo"]
    return cost(args, title, method, loops(args), options, cores=args.two_cores, least=128)


def echo_of_two(args, title):
    method = "The same with two loops."
    servers = starts(args, ["-n", "-t", "2"], ["raw_epoll"], ["-t", "2"])
    return cost(args, title, method, servers, ["-c", "64", "echo"], cores=args.two_cores, least=128)


def churn(args, title):
    method = "An operation is a connection of one message of 64 B; 4 at a time. One loop."
    return cost(args, title, method, loops(args), ["-c", "4", "churn"], 1.00, 6.2)


def churn_of_two(args, title):
    method = (
        "The same with two loops on two cores, the client on both, beside the peer that has "
        "several loops: there, the first accepts for all."
    )
    servers = starts(args, ["-n", "-t", "2"], ["raw_epoll"], ["-t", "2"])
    return cost(args, title, method, servers, ["-c", "8", "churn"], 1.00, cores=args.two_cores)


def blocking(workers, connections):
    def measure(args, title):
        method = (
            f"An operation is a connection of one message of 64 B; {connections} at a time. "
            "std_threads has a thread for each connection."
        )
        servers = starts(args, ["-t", workers], ["raw_pool"], ["-t", workers])
        if not args.quick:
            servers["std_threads"] = [peer("std_threads")]
        return cost(args, title, method, servers, ["-c", connections, "churn"], 1.05)

    title = f"blocking, a message per connection, {workers} worker{'s' * (workers > 1)}"
    return Workload(title, measure, quick=workers == 8)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def store(command):
    def measure(args, title):
        method = (
            f"An operation is redis's {command.upper()} of a value of 64 B; 64 connections with 16 "
            "requests in flight each. Ours is [the store example](../examples-c/store.c), in which "
            "each reply is a send. redis-server keeps nothing on disk."
        )
        redis = ["redis-server", "--port", free_port(), "--save", "", "--appendonly", "no"]
        servers = {
            OURS: [example("store"), "127.0.0.1:0"],
            "redis-server": [*redis, "--bind", "127.0.0.1"],
        }
        options = ["-c", "64", "-d", "16", command]
        return cost(args, title, method, servers, options, 1.0, 0.14, least=2048)

    return Workload(f"store, {command.upper()}, 16 deep", measure, quick=command == "get")


NGINX = """\
daemon off; master_process off; error_log stderr notice; pid {folder}/nginx.pid;
events {{ worker_connections 1024; use epoll; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""
MOSQUITTO = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
log_dest stderr
connection_messages false
"""


def configured(program, config, folder):
    """Returns the command line of a server that gets its port in a file, and does not say it."""
    port, file = free_port(), pathlib.Path(folder) / f"{program}.conf"
    file.write_text(config.format(port=port, folder=folder))
    return ["sh", "-c", 'echo "port=$0"; exec "$@" 2>&1', port, program, "-c", file]


def page(size, title, goal=None):
    def measure(args, title):
        method = (
            f"An operation is a GET of HTTP/1.1 of a file of {size:,} B; 64 lasting connections. "
            "Ours is [the files example](../examples-c/files.c); nginx has one process and no log; "
            "microhttpd is libmicrohttpd with its own loop. Each sends the file by sendfile(2)."
        )
        with tempfile.TemporaryDirectory(prefix="netserver-bench-") as folder:
            (pathlib.Path(folder) / "page").write_text("0123456789abcdef" * (size // 16))
            servers = {
                OURS: [example("files"), "127.0.0.1:0", folder],
                "nginx": configured("nginx", NGINX, folder),
                "microhttpd": [peer("microhttpd"), folder],
            }
            return cost(args, title, method, servers, ["-c", "64", "page"], goal, least=128)

    return Workload(title, measure, quick=goal is not None)


def hosted(args, title):
    method = (
        "An operation is a message there and back; 64 lasting connections. The program runs the "
        "turns of the library itself, by poll(2) on its one descriptor; own_loop is the same "
        "program with the library's loop."
    )
    servers = {
        OURS: [build("hosted"), "127.0.0.1:0"],
        "own_loop": [build("hosted"), "-o", "127.0.0.1:0"],
    }
    return cost(args, title, method, servers, ["-c", "64", "echo"], 1.15, least=128)


def broadcast(members):
    def measure(args, title):
        method = (
            f"An operation is a message of 64 B that one of {members:,} subscribers gets; the next "
            "is published when all have it. Our server calls ns_server_broadcast in its handler; "
            "raw_fan is a loop of send(2)."
        )
        servers = {OURS: [build("fan"), "127.0.0.1:0"], "raw_fan": [peer("raw_fan")]}
        options = ["-c", members, "publish"]
        return cost(args, title, method, servers, options, 1.05, least=4 * members)

    return Workload(f"broadcast to {members:,}", measure, quick=members == 1000)


def mqtt(members):
    def measure(args, title):
        method = (
            f"An operation is a message of MQTT 3.1.1 of 64 B and QoS 0 that one of {members:,} "
            "subscribers gets; the next is published when all have it. Ours is [the broker "
            "example](../examples-c/broker.c)."
        )
        with tempfile.TemporaryDirectory(prefix="netserver-bench-") as folder:
            servers = {
                OURS: [example("broker"), "127.0.0.1:0"],
                "mosquitto": configured("mosquitto", MOSQUITTO, folder),
            }
            options = ["-c", members, "mqtt"]
            return cost(args, title, method, servers, options, 1.0, least=4 * members)

    return Workload(f"MQTT to {members:,}", measure)


# -- instructions -----------------------------------------------------------------------------


def instructions(args, argv, connections, messages):
    """Returns the instructions in user space of a server's whole life of that many messages."""
    with tempfile.TemporaryDirectory(prefix="netserver-bench-") as folder:
        out = pathlib.Path(folder) / "callgrind"
        valgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
        with Server(args.core, [*valgrind, "--separate-threads=no", *argv]) as server:
            with Load(args.core, server, "-c", connections, "echo") as load:
                if connections == 1:
                    run_last(load)  # else the next message is there before the server waits
                load.burst(messages)
                load.finish()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(STEP_TIMEOUT_S)
        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(), re.M)[1])


def instructions_per_message(connections):
    turns = "a turn of the loop each" if connections == 1 else f"{connections} in a turn of the loop"

    def measure(args, title):
        values = {}
        for name, argv in loops(args).items():
            short, long = (instructions(args, argv, connections, run) for run in RUNS)
            values[name] = (long - short) / (RUNS[1] - RUNS[0])
        method = (
            f"Instructions in user space for a message of 64 B there and back, {turns}, all "
            f"threads: what callgrind counts in a run of {RUNS[1]:,} messages less what it counts "
            f"in one of {RUNS[0]:,}, so that starting falls out."
        )
        return amounts(title, method, values, "instructions", "raw_epoll")

    title = f"instructions of an echo, {connections} connection{'s' * (connections > 1)}"
    return Workload(title, measure, quick=True)


# -- memory -----------------------------------------------------------------------------------


def memory(args, title):
    values = {name: idle_memory(args, argv, [], IDLE) for name, argv in loops(args).items()}
    method = (
        f"How the server's anonymous memory grows with {IDLE:,} connections that echoed one "
        "message each and then idle, divided by them."
    )
    goal = Goal("memory of an idle connection", values[OURS], 240, "B")
    return amounts(title, method, values, "bytes", "raw_epoll", goal)


# -- quiet connections beside a stream --------------------------------------------------------


def quiet_bursts(args, argv):
    """Measures the quiet connections alone and beside the stream, in turn, and returns the 99th
    percentiles of both in µs."""
    alone, beside = [], []
    with (
        Server(args.core, argv) as server,
        Load(args.other_core, server, "-c", QUIET, "echo") as quiet,
        Load(args.other_core, server, "-s", 1 << 20, "-d", 4, "echo") as stream,
    ):
        run_last(stream)
        streamed = 100
        while len(alone) < args.bursts:
            by_itself = quiet.burst(QUIET_MESSAGES)["p99"]
            stream.begin_burst(streamed)
            not_alone = quiet.burst(QUIET_MESSAGES)["p99"]
            if stream.has_line():
                streamed *= 2  # the stream ended too early: these do not count
            else:
                alone.append(by_itself)
                beside.append(not_alone)
            stream.end_burst()
        quiet.finish()
        stream.finish()
    return alone, beside


def quiet(args, title):
    method = (
        f"{QUIET} connections with messages of 64 B, one at a time each: the 99th percentile of a "
        f"burst of {QUIET_MESSAGES:,}, alone and while another connection of the same loop streams "
        "1 MiB messages, four in flight. The server has a core; both clients share the other, "
        "where the quiet one comes first, so that what it waits for is the server."
    )
    rows, bars = [], {}
    for name, argv in loops(args).items():
        alone, beside = quiet_bursts(args, argv)
        ratios = sorted(b / a for a, b in zip(alone, beside))
        middle = statistics.median(beside) / statistics.median(alone)
        bars[name] = (middle, min(ratios[0], middle), max(ratios[-1], middle))
        micros = [number(statistics.median(each)) for each in (alone, beside)]
        rows.append([name, *micros, ratio_text(middle, ratios[0], ratios[-1])])
    header = ["", "alone, p99 µs", "beside the stream, p99 µs", "times (min–max)"]
    goal = Goal("p99 beside the stream, of that alone", bars[OURS][0], 3)
    return Section(title, method, header, rows, bars, "times the p99 alone", "raw_epoll", [goal])


WORKLOADS = [
    echo("echo 64 B, 1 connection", [], 1.02, 2.01, quick=True),
    echo("echo 64 B, 64 connections", ["-c", "64"], 1.02, 2.01, quick=True),
    echo("echo 64 B, 1,000 connections", ["-c", "1000"], 1.02, 2.01),
    echo("echo 64 B, 10,000 connections", ["-c", "10000"], 1.02, 2.01),
    echo("echo 64 B, 64 connections, 16 deep", ["-c", "64", "-d", "16"], 1.02),
    echo("echo 16 KiB, 64 connections", ["-c", "64", "-s", "16384"], 1.02, quick=True),
    echo("echo 1 MiB, 1 connection", ["-s", "1048576"], 0.68, quick=True),
    store("get"),
    store("set"),
    page(1024, "HTTP, a file of 1 KiB", 1.0),
    page(60_000, "HTTP, a file of 60 kB"),
    Workload("hosted, by poll(2), 64 connections", hosted, quick=True),
    broadcast(1000),
    broadcast(10_000),
    mqtt(1000),
    Workload("echo 1 MiB, 1 connection, the host's congestion control", paced_stream, quick=True),
    Workload("echo 64 B, 64 connections, two cores", echo_on_two_cores),
    Workload("echo 64 B, 64 connections, two cores, 2 loops", echo_of_two),
    Workload("churn, 1 loop", churn, quick=True),
    Workload("churn, 2 loops", churn_of_two, quick=True),
    blocking(1, 4),
    blocking(8, 16),
    blocking(64, 96),
    instructions_per_message(1),
    instructions_per_message(64),
    Workload("memory of an idle connection", memory, quick=True),
    Workload("quiet connections beside a stream", quiet),
]
