"""How servers and the interpreter end."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from typing import Any

import pytest
from conftest import BLOCKING, HOSTED, SECONDS, Client, echo, serving, until

import netserver
from netserver import Config, Server, Socket, State
from netserver._objects import objects


def test_states() -> None:
    states: list[State] = []
    server = Server(echo, "127.0.0.1:0", on_start=lambda server: states.append(server.state))
    states.append(server.state)
    assert server.is_stopped and server.address == ""
    server.start()
    states.append(server.state)
    assert server.address == f"127.0.0.1:{server.port}" and not server.is_stopped
    assert server.run_once() is True
    with pytest.raises(netserver.StateError):
        server.start()
    server.stop()
    states.append(server.state)
    assert server.run_once() is False
    server.serve_forever()
    server.close()
    assert states == [State.NEW, State.STARTING, State.RUNNING, State.STOPPED]


def test_quiesce() -> None:
    for config in (HOSTED, BLOCKING):
        server = Server(echo, "127.0.0.1:0", config)
        with pytest.raises(netserver.StateError):
            server.quiesce()
        with server:
            address = "127.0.0.1", server.port
            server.quiesce()
            assert server.state is State.QUIESCING and not server.is_stopped
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address, 5)


def test_a_stop_before_the_start() -> None:
    for config in (HOSTED, BLOCKING):
        with Server(echo, "127.0.0.1:0", config) as server:
            pass
        server = Server(echo, "127.0.0.1:0", config)
        server.request_stop()
        server.serve_forever()
        server.close()


def test_wait() -> None:
    for config in (HOSTED, BLOCKING):
        with Server(echo, "127.0.0.1:0", config) as server:
            with pytest.raises(TimeoutError):
                server.wait(0.01)
            server.request_stop()
            server.wait()


def test_calls_in_a_callback() -> None:
    caught: list[Any] = []

    def handler(socket: Socket) -> None:
        for call in (server.close, server.run_once, server.wait):
            try:
                call()
            except netserver.Error as error:
                caught.append(type(error))
        server.stop()

    with Server(handler, "127.0.0.1:0") as server, Client(server.port) as client:
        client.sendall(b"x")
        server.serve_forever()
    assert caught == [netserver.BusyError, netserver.BusyError, netserver.DeadlockError] or caught == [
        netserver.BusyError
    ]


def test_a_server_that_is_forgotten() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Server(echo)
        gc.collect()
    assert [each.category for each in caught] == [ResourceWarning]
    Server(echo).close()  # frees the other one, too


def test_calls_beside_a_close() -> None:
    """Threads that call a server while it is closed get an exception, and no freed memory."""

    def call(server: Server) -> None:
        try:
            while True:
                server.send(1, b"x") if server.state is State.STARTING else server.connections()
        except netserver.StateError:
            ended.append(None)

    for _ in range(20):
        ended: list[None] = []
        with Server(echo, "127.0.0.1:0") as server:
            threads = [threading.Thread(target=call, args=(server,)) for _ in range(4)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert len(ended) == 4


def test_hooks_of_threads() -> None:
    kinds: list[Any] = []
    order: list[str] = []
    config = Config(max_thread=2)
    with serving(
        echo, config,
        on_thread_start=lambda server, kind, number: kinds.append((kind.name, number)),
        on_thread_stop=lambda server, kind, number: kinds.remove((kind.name, number)),
        on_start=lambda server: order.append(f"start {server.port > 0}"),
        on_stop=lambda server: order.append("stop"),
    ):  # fmt: skip
        assert {("LOOP", 0), ("LOOP", 1)} <= set(kinds)
    assert kinds == [] and order == ["start True", "stop"]


def test_shutdown_port() -> None:
    for config in (HOSTED, BLOCKING):
        config = Config(config.non_blocking, shutdown_port="0")
        words: list[bytes] = []

        def on_shutdown(socket: Socket) -> bool:
            words.append(socket.recv() or b"")
            return words[-1] == b"stop"

        with serving(echo, config, shutdown_handler=on_shutdown) as server:
            for word in (b"go on", b"stop"):
                with Client(server.shutdown_port) as client:
                    client.sendall(word)
                    client.rest()
            server.wait(SECONDS)
        assert words == [b"go on", b"stop"]


def run(program: str, *, wait_for: str = "", number: int = 0) -> tuple[int, str, float]:
    """Runs a program; sends a signal when it has printed `wait_for`. Returns its exit status, what it
    printed, and how long it then took."""
    full = "import os, signal, sys, threading, time, netserver\nfrom netserver import *\n"
    full += textwrap.dedent(program)
    process = subprocess.Popen(
        [sys.executable, "-c", full], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output, begun = "", time.monotonic()
    assert process.stdout
    while wait_for and wait_for not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
        begun = time.monotonic()
    if number:
        process.send_signal(number)
    killer = threading.Timer(60, process.kill)
    killer.start()
    output += process.stdout.read()
    process.stdout.close()
    process.wait()
    killer.cancel()
    killer.join()
    return process.returncode, output, time.monotonic() - begun


BUSY = """
    def echo(socket):
        while data := socket.recv():
            socket.send(data)
            {in_handler}
    server = Server(echo, "127.0.0.1:0", Config(**dict({config}), drain_timeout=1))
    server.start()
    def client():
        import contextlib, socket
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", server.port)) as s:
                while s.send(b"x" * 100) and s.recv(1000):
                    {in_client}
    clients = [threading.Thread(target=client, daemon=True) for _ in range(2)]
    for each in clients: each.start()
    def host(): server.serve_forever()
"""
CONFIGS = ["", "max_thread=2", "non_blocking=False, max_thread=2"]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("end, status", [("", 0), ("sys.exit(7)", 7), ("1 / 0", 1)])
def test_the_interpreter_ends(config: str, end: str, status: int) -> None:
    program = textwrap.dedent(BUSY.format(config=config, in_handler="pass", in_client="pass"))
    program += "threading.Thread(target=host, daemon=True).start(); time.sleep(0.1)\n"
    program += f"print('end', flush=True)\n{end}\n"
    result, output, seconds = run(program, wait_for="end\n")
    assert result == status, output
    assert seconds < 30
    assert ("ZeroDivisionError" in output) == (status == 1)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_end_of_the_interpreter_stops_servers(config: str) -> None:
    program = f"""
    server = Server(print, "127.0.0.1:0", Config({config}), on_stop=lambda server: print("stopped"))
    server.start()
    """
    assert run(program)[:2] == (0, "stopped\n")


@pytest.mark.parametrize("config", CONFIGS[1:])
def test_the_interpreter_ends_although_a_handler_hangs(config: str) -> None:
    """The thread that hangs must neither crash in the library nor hold the end up."""
    program = BUSY.format(
        config=config,
        in_client="pass",
        in_handler="print('end', flush=True); hangs.set(); time.sleep(0.5)",
    )
    program = "    hangs = threading.Event()" + program + "    hangs.wait(60)\n"
    result, output, _ = run(program, wait_for="end\n")
    assert result == 0 and "rror" not in output, output


@pytest.mark.parametrize("config", CONFIGS)
def test_ctrl_c(config: str) -> None:
    program = BUSY.format(config=config, in_handler="pass", in_client="time.sleep(0.001)")
    program += """
    try:
        print("serving", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    server.close()
    sys.exit(5)
    """
    result, output, seconds = run(program, wait_for="serving\n", number=signal.SIGINT)
    assert result == 5 and "interrupted" in output and "Traceback" not in output, output
    assert seconds < 30


def test_ctrl_c_of_an_idle_server() -> None:
    program = """
    with Server(lambda socket: None, "127.0.0.1:0") as server:
        print("serving", flush=True)
        server.serve_forever()
    """
    result, output, seconds = run(program, wait_for="serving\n", number=signal.SIGINT)
    assert result == -signal.SIGINT and "KeyboardInterrupt" in output and seconds < 30


def test_signals_at_any_moment_of_a_call() -> None:
    program = """
    import random
    class Alarm(BaseException): pass
    def ring(*_): raise Alarm
    server = Server(lambda socket: None, "127.0.0.1:0")
    server.start()
    signal.signal(signal.SIGALRM, ring)
    for _ in range(3000):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-4))
            while True:
                server.run_once()
        except Alarm:
            pass
    print("calls", len(server._calls), flush=True)
    server.close()
    """
    result, output, seconds = run(program)
    assert result == 0 and output == "calls 0\n", output


def test_ctrl_c_while_a_handler_does_not_return() -> None:
    program = """
    import socket
    def handler(socket):
        print("serving", flush=True)
        threading.Event().wait(60)
    config = Config(non_blocking=False, drain_timeout=0.05)
    with Server(handler, "127.0.0.1:0", config) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        server.serve_forever()
    """
    result, output, seconds = run(program, wait_for="serving\n", number=signal.SIGINT)
    assert result == -signal.SIGINT and "TimeoutError" not in output and seconds < 30, output


@pytest.mark.parametrize("config", CONFIGS)
def test_signal_handlers_call_the_server(config: str) -> None:
    """Also in the middle of another call of the same thread. Each handler asks for the next signal
    at its end: one that comes by itself could come sooner than its handler ends, again and again."""
    program = f"""
    import random
    count = 0
    def ring():
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 2e-4))
    def on_alarm(*_):
        global count
        count += 1
        server.port
        if count < 2000:
            ring()
        else:
            server.request_stop()
    with Server(print, "127.0.0.1:0", Config({config})) as server:
        signal.signal(signal.SIGALRM, on_alarm)
        ring()
        while count < 1000:
            server.is_stopped
        server.serve_forever()
    print(count)
    """
    result, output, _ = run(program)
    assert (result, output) == (0, "2000\n")


def test_fork() -> None:
    answers: list[bytes] = []

    def handler(socket: Socket) -> None:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                server.send(socket.id, b"x")
            except netserver.StateError:
                os.write(writer, b"state ")
            try:
                server.serve_forever()
            except netserver.StateError:
                os.write(writer, b"state")
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answers.append(pipe.read())
        os.waitpid(child, 0)
        echo(socket)

    for config in (HOSTED, Config(max_thread=2), BLOCKING):
        with serving(handler, config) as server, Client(server.port) as client:
            assert client.ask(b"x") == b"x"
        assert answers.pop() == b"state state"


def test_fork_while_another_thread_calls() -> None:
    program = """
    server = Server(print, "127.0.0.1:0")
    held, end = threading.Event(), threading.Event()
    def call():
        with server._lock:  # as a call does
            held.set()
            end.wait()
    thread = threading.Thread(target=call)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            server.start()
        except StateError:
            os._exit(3)
        os._exit(4)
    status = os.waitpid(child, 0)[1]
    end.set()
    thread.join()
    server.close()
    sys.exit(os.WEXITSTATUS(status))
    """
    result, output, _ = run(program)
    assert result == 3, output


def test_a_child_returns_from_a_callback_and_ends() -> None:
    program = """
    def handler(socket):
        global child
        if socket.recv():
            child = os.fork()
            socket.send(b"x") if child else None
            socket.close() if child else None
    child = None
    server = Server(handler, "127.0.0.1:0")
    server.start()
    import socket
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(b"x")
    try:
        while child is None:
            server.run_once(1)
        os.waitpid(child, 0)
        print("parent", client.recv(1), flush=True)
    except StateError:
        print("child", flush=True)
    server.close()
    """
    result, output, _ = run(program)
    assert result == 0 and sorted(output.split()) == ["b'x'", "child", "parent"], output


def test_everything_is_collected() -> None:
    before = len(objects)
    with serving() as server, Client(server.port) as client:
        client.ask(b"x")
        assert len(objects) == before + 2
        gc.collect()
        client.ask(b"x")
    until(lambda: len(objects) == before)
