"""One case: a server under strace, clients that check each byte, a stop, and what was wrong."""

import concurrent.futures
import contextlib
import dataclasses
import errno as errnos
import os
import pathlib
import random
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import answers
import harness

DATA = harness.ROOT / "tests" / "data"
PATIENCE = 60.0  # seconds until what does not come counts as hung: the machine may be busy
AT_REST = 4.0  # s in which a server without connections stops; less than its drain_timeout
STOP = 30.0  # s in which any other server stops: drain_timeout, and what a busy machine takes
CPU = 3.0  # s of processor time of a case
# s without a client, the processor time that they may take, and how often it is looked at.
REST, REST_CPU, RESTS = 0.1, 0.02, 10
MEMORY = 256 << 20  # bytes
# A server's own deadlines of 5 and 10 s pass where nobody runs. A case in which they did, and whose
# processes have waited so many seconds for a processor before its stop, says nothing.
WAITED = 3.0
DEADLINES = "the TLS handshake timed out|no worker became free in time|connect.*connection timed out"
ABORTS = r"memory allocation of \d+ bytes failed|cannot allocate memory|[Cc]annot create thread"

# The output of strace goes to memory: a disk that is busy writing would stop the server with it.
MEMORY_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

TLS = ["--cert", str(DATA / "server.pem"), "--key", str(DATA / "server-key.pem")]
# The servers: program, options, service.
KINDS = {
    "workers": ("echo", ["-t", "3"], "0"),
    "loops": ("echo", ["-n", "-t", "2"], "0"),
    "workers-tls": ("echo", ["-t", "3", *TLS], "0"),
    "loops-tls": ("echo", ["-n", "-t", "2", *TLS], "0"),
    "workers-unix": ("echo", ["-t", "3"], "unix"),
    "loops-unix": ("echo", ["-n", "-t", "2"], "unix"),
    "relay": ("relay", ["-t", "2"], "0"),
}


@dataclasses.dataclass(frozen=True)
class Fault:
    kind: str
    call: str = ""  # "": none, and every call is noted
    errno: str = ""
    first: int = 1  # which calls of each thread fail, counted from 1
    last: int = 1
    seed: int = 0

    def __str__(self):
        return f"{self.kind} {self.call} {self.errno} {self.first}-{self.last} {self.seed}"


@dataclasses.dataclass
class Result:
    fault: Fault
    wrong: list
    outcome: str = ""
    calls: list = dataclasses.field(default_factory=list)  # (thread, call) in their order
    said: str = ""
    seconds: float = 0.0
    stop_seconds: float = 0.0


class Stalls:
    """How much later than asked a thread of this process ran: what the machine took from all."""

    STEP = 0.05

    def __enter__(self):
        self.seconds, self.over = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        before = time.monotonic()
        while not self.over.wait(self.STEP):
            now = time.monotonic()
            self.seconds += max(0.0, now - before - self.STEP)
            before = now

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


# -- clients ----------------------------------------------------------------------------------


class Client:
    """Sends `size` bytes that nobody else sends and expects them back."""

    def __init__(self, case, number, size, window=0):
        self.case, self.size, self.got, self.trouble = case, size, 0, ""
        self.data = random.Random(case.fault.seed * 1000 + number).randbytes(size)
        self.window = window

    def connect(self):
        family, address = self.case.address
        sock = socket.socket(family)
        if self.window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        sock.settimeout(PATIENCE)
        sock.connect(address)
        if self.case.tls:
            sock = self.case.tls.wrap_socket(
                sock, server_hostname="localhost", suppress_ragged_eofs=False
            )
        sock.setblocking(False)
        return sock

    def take(self, part):
        if part != self.data[self.got : self.got + len(part)]:
            self.case.wrong.append(f"wrong bytes after {self.got} of {self.size}")
            raise ConnectionError("wrong bytes")
        self.got += len(part)

    def echo(self, sock, upto, slow=False):
        """Sends up to there and reads it back; `slow`: does not read before it cannot send."""
        sent, end = self.got, time.monotonic() + PATIENCE
        while self.got < upto:
            wait_read, wait_write = not slow, sent < upto
            pending = wait_read and self.case.tls and sock.pending()
            limit = 0 if pending else 0.05 if slow else end - time.monotonic()
            found = select.select([sock] * wait_read, [sock] * wait_write, [], max(0, limit))
            if not any(found) and not pending:
                if not slow:
                    raise TimeoutError(f"{self.got} of {upto} bytes came back")
                slow = False
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if found[1]:
                    sent += sock.send(self.data[sent : min(upto, sent + (1 << 16))])
                    slow = slow and sent < upto
            with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if found[0] or pending:
                    if not (part := sock.recv(1 << 16)):
                        raise ConnectionError("ended early")
                    self.take(part)

    def end(self, sock):
        """The end of both streams, in order."""
        sock.settimeout(PATIENCE)
        if self.case.tls:
            sock.unwrap().close()
            return
        sock.shutdown(socket.SHUT_WR)
        if part := sock.recv(1):
            self.take(part)

    def run(self, act):
        """What goes wrong with a connection stays with it. Returns it where it is still open."""
        sock = None
        try:
            sock = self.connect()
            return act(sock)
        except TimeoutError as error:
            self.case.note_hung(f"hung: {error}")
            self.trouble = "hung"
        except OSError as error:  # also of TLS
            self.trouble = str(error) or type(error).__name__
        if sock is not None:
            sock.close()
        return None

    def quick(self):
        def act(sock):
            for part in (1, 2, 3):
                self.echo(sock, self.size * part // 3)
            self.end(sock)
            sock.close()

        self.run(act)

    def slow(self):
        def act(sock):
            self.echo(sock, self.size, slow=True)
            self.end(sock)
            sock.close()

        self.run(act)

    def reset(self):
        def act(sock):
            self.echo(sock, self.size // 2)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

        self.run(act)

    def leave(self):
        self.run(lambda sock: sock.close())

    def stay(self):
        def act(sock):
            self.echo(sock, self.size)
            return sock

        return self.run(act)


# -- the server -------------------------------------------------------------------------------


class Upstream:
    """The server behind the relay: this same process echoes."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(0.2)
        self.over = False
        self.pool = concurrent.futures.ThreadPoolExecutor(32)
        self.pool.submit(self.accept)

    def accept(self):
        while not self.over:
            with contextlib.suppress(OSError):
                sock, _ = self.listener.accept()
                sock.settimeout(PATIENCE)
                self.pool.submit(self.echo, sock)

    @staticmethod
    def echo(sock):
        with sock, contextlib.suppress(OSError):
            while part := sock.recv(1 << 16):
                sock.sendall(part)

    def close(self):
        self.over = True
        self.pool.shutdown()
        self.listener.close()


class Case:
    def __init__(self, fault, tls):
        self.fault, self.wrong, self.hung_in = fault, [], ""
        self.tls = tls if fault.kind.endswith("-tls") else None
        self.dice = random.Random(f"{fault}")
        self.result = Result(fault, self.wrong)

    def command(self, folder, upstream):
        program, options, service = KINDS[self.fault.kind]
        self.program = program
        if service == "unix":
            service = f"unix:{folder}/s"
        strace = ["strace", "-f", "-yy", "-e", "signal=none", "-o", f"{folder}/calls"]
        fault = self.fault
        if fault.call:
            when = f"{fault.first}..{fault.last}" if fault.last > fault.first else fault.first
            inject = f"inject={fault.call}:error={fault.errno}:when={when}"
            strace += ["--seccomp-bpf", "-e", f"trace={fault.call}", "-e", inject]
        target = [f"127.0.0.1:{upstream.listener.getsockname()[1]}"] if upstream else []
        return [*strace, harness.c_program("examples-c", program), *options, service, *target]

    def run(self):
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="faults-", dir=MEMORY_FOLDER)
            )
            upstream = Upstream() if self.fault.kind == "relay" else None
            if upstream:
                stack.callback(upstream.close)
            self.out = stack.enter_context(open(f"{folder}/out", "w+"))
            self.err = stack.enter_context(open(f"{folder}/err", "w+"))
            command = self.command(folder, upstream)
            # A core file, if there is one, goes with the folder.
            self.process = subprocess.Popen(
                command, stdout=self.out, stderr=self.err, cwd=folder
            )
            stack.callback(self.kill)
            self.child = None
            serving = self.wait_for_start()
            if serving:
                self.serve(folder)
            self.wait_for_exit(STOP)
            self.judge(folder, serving)
        self.result.seconds = time.monotonic() - started
        return self.result

    def kill(self):
        """Ends the server, which strace outlives by a moment. The server would outlive strace."""
        if self.process.poll() is None:
            if not self.child:
                self.find_child()
            with contextlib.suppress(OSError):
                if self.child:
                    os.kill(self.child, signal.SIGKILL)
            try:
                self.process.wait(STOP)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @staticmethod
    def text(file):
        return os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace")

    def wait_for_start(self):
        """Whether it listens; else it has ended, or hangs."""
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"listening on (\S+) ", self.text(self.out))):
            if self.process.poll() is not None:
                return False
            if time.monotonic() > end:
                self.wrong.append("hung in its start")
                self.find_child()
                return False
            time.sleep(0.005)  # its output is a file, which announces nothing
        self.find_child()
        service = found[1]
        if service.startswith("unix:"):
            self.address = (socket.AF_UNIX, service[5:])
        else:
            self.address = (socket.AF_INET, ("127.0.0.1", int(service.rsplit(":", 1)[1])))
        return True

    def find_child(self):
        with contextlib.suppress(OSError, IndexError):
            pid = self.process.pid
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                self.child = int(children.read().split()[0])

    def proc(self, name):
        with open(f"/proc/{self.child}/{name}") as file:
            return file.read()

    def count_descriptors(self):
        return len(os.listdir(f"/proc/{self.child}/fd"))

    def cpu(self):
        """Seconds of processor time of the threads that it has."""
        spent = 0
        for thread in os.listdir(f"/proc/{self.child}/task"):
            with contextlib.suppress(OSError):
                spent += int(self.proc(f"task/{thread}/schedstat").split()[0])
        return spent / 1e9

    def note_hung(self, text):
        """The first time also what each thread of the server, and strace, is in."""
        if not any("hung" in wrong for wrong in self.wrong):
            lines = []
            with contextlib.suppress(OSError):
                tasks = [f"/proc/{self.process.pid}"]
                tasks += [
                    f"/proc/{self.child}/task/{thread}"
                    for thread in os.listdir(f"/proc/{self.child}/task")
                ]
                for task in tasks:
                    parts = [pathlib.Path(f"{task}/{name}") for name in ("stat", "wchan")]
                    stat, where = (part.read_text() for part in parts)
                    state = stat.rpartition(")")[2].split()[0]
                    lines.append(f"{stat.partition(' (')[2].partition(')')[0]}: {state} in {where}")
            self.hung_in = "; ".join([*lines, f"load {os.getloadavg()[0]:.0f}"])
        self.wrong.append(text)

    def waited_for_processor(self):
        """Seconds, over strace and the threads that the server has."""
        tasks = [f"/proc/{self.child}/task/{t}" for t in os.listdir(f"/proc/{self.child}/task")]
        waited = 0
        for task in [f"/proc/{self.process.pid}", *tasks]:
            with contextlib.suppress(OSError):
                waited += int(pathlib.Path(f"{task}/schedstat").read_text().split()[1])
        return waited / 1e9

    def serve(self, folder):
        self.clients, self.waited = [], 0.0
        try:
            before = self.count_descriptors()
            with Stalls() as stalls:
                stayed = self.load()
            self.waited = stalls.seconds + self.waited_for_processor()
            at_rest = self.dice.random() < 0.6
            if at_rest:
                for sock in filter(None, stayed):
                    sock.close()
                self.check_rest(before)
            self.check_resources()
        except (OSError, TypeError) as error:
            # The process has gone, or will: `judge` says whether it may.
            self.gone = str(error)
            at_rest, stayed = False, []
        began = time.monotonic()
        with Stalls() as stalls:
            self.stop(stayed)
        self.result.stop_seconds = time.monotonic() - began
        if at_rest and self.result.stop_seconds - stalls.seconds > AT_REST:
            self.wrong.append(f"stopped after {self.result.stop_seconds:.1f} s, at rest")
        if not at_rest:
            for sock in filter(None, stayed):
                sock.close()

    def stop(self, stayed):
        with contextlib.suppress(OSError, TypeError):
            os.kill(self.child, signal.SIGTERM)
        if self.fault.kind.startswith("workers") and self.dice.random() < 0.9:
            # A worker waits for its client; one in ten is cut after drain_timeout.
            for sock in filter(None, stayed):
                sock.close()
        self.wait_for_exit(STOP)

    def client(self, size, window=0):
        self.clients.append(Client(self, len(self.clients), size, window))
        return self.clients[-1]

    def load(self):
        """Returns the connections that stay."""
        acts = [self.client(self.dice.randint(3, 3000)).quick for _ in range(8)]
        acts += [self.client(self.dice.randint(100_000, 400_000)).quick for _ in range(2)]
        acts += [self.client(200_000, 4096).slow for _ in range(2)]
        acts += [self.client(self.dice.randint(2, 100_000)).reset for _ in range(3)]
        acts += [self.client(0).leave]
        self.dice.shuffle(acts)
        stay = [self.client(self.dice.randint(1, 3000)).stay for _ in range(2)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            # Not all: in blocking mode each of them takes a worker.
            stayed = list(pool.map(lambda act: act(), stay[:1]))
            list(pool.map(lambda act: act(), acts))
            stayed += pool.map(lambda act: act(), stay[1:])
        return stayed

    def check_rest(self, before):
        end = time.monotonic() + PATIENCE
        while self.count_descriptors() > before:
            if time.monotonic() > end:
                extra = self.count_descriptors() - before
                self.wrong.append(f"{extra} descriptors more than before the clients")
                return
            time.sleep(0.01)  # what another process closes announces nothing
        # A stop that has begun, or the end of the last clients, takes time once; who spins goes on.
        for _ in range(RESTS):
            spent = self.cpu()
            time.sleep(REST)  # what is measured is this time itself
            spent = self.cpu() - spent
            if spent <= REST_CPU:
                return
        self.wrong.append(f"spins: {spent * 1000:.0f} ms of processor time in {REST} s of rest")

    def check_resources(self):
        if self.cpu() > CPU:
            self.wrong.append(f"took {self.cpu():.1f} s of processor time")
        resident = int(re.search(r"VmHWM:\s+(\d+)", self.proc("status"))[1]) * 1024
        if resident > MEMORY:
            self.wrong.append(f"took {resident >> 20} MiB of memory")

    def wait_for_exit(self, seconds):
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"still runs {seconds} s after its stop")
            self.kill()

    # -- what strace saw, and the verdict ------------------------------------------------------

    def read_calls(self, folder):
        """The calls in the order of their ends; and the lines of those that failed on demand."""
        begun, calls, injected = {}, [], []
        with open(f"{folder}/calls", errors="replace") as file:
            for line in file:
                thread, _, text = line.rstrip().partition(" ")
                text = text.lstrip()
                if text.endswith("<unfinished ...>"):
                    begun[thread] = text[: -len("<unfinished ...>")]
                    continue
                if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
                    text = begun.pop(thread, "") + text[resumed.end() :]
                if name := re.match(r"\w+(?=\()", text):
                    calls.append((thread, name[0], text))
                if text.endswith("(INJECTED)"):
                    injected.append(text)
        return calls, injected

    def judge(self, folder, serving):
        fault, result, status = self.fault, self.result, self.process.returncode
        calls, self.injected = self.read_calls(folder)
        said, printed = self.text(self.err), self.text(self.out)
        result.said = said + self.hung_in
        if not fault.call:
            result.calls = calls
        if fault.call and not self.injected:
            result.outcome = "not reached"
        reasons = [answers.left_out(fault.call, fault.errno, fault.kind, i) for i in self.injected]
        if any(reasons):
            result.outcome = "left out"
            self.wrong.clear()
            return
        cost = answers.ANSWERS[fault.call][fault.errno] if fault.call else answers.NOBODY
        if "panicked" in said or "AddressSanitizer" in said:
            self.wrong.append("a panic")
        if status < 0:
            if cost == answers.MEMORY and re.search(ABORTS, said):
                self.wrong.clear()  # clients that lost their server
                result.outcome = "aborted: no memory"
            else:
                self.wrong.append(f"killed by signal {-status}")
            return
        if not serving:
            self.judge_start(status, said)
            return
        if status != 0:
            self.wrong.append(f"exit status {status}")
        self.judge_accounting(printed)
        self.judge_clients(cost, said)

    def judge_start(self, status, said):
        result, errno = self.result, self.fault.errno
        result.outcome = result.outcome or "start failed"
        if status != 1:
            self.wrong.append(f"a start that failed has exit status {status}")
        if not self.injected:
            self.wrong.append("the start failed without a fault")
        # pthread_create(3) has one answer for all.
        threads = ["EAGAIN"] * (self.fault.call in ("clone3", "mmap", "mprotect"))
        reasons = [os.strerror(getattr(errnos, name)).lower() for name in [errno, *threads]]
        if not any(reason in said.lower() for reason in reasons):
            self.wrong.append("the start does not say why it failed")

    def judge_accounting(self, printed):
        line = re.search(r"^Connections: (.*)$", printed, re.M)
        if not line:
            if self.program == "echo":
                self.wrong.append("no report")
            return
        count = {name: int(n) for name, n in re.findall(r"(\w+) (\d+)", line[1])}
        came = count["accepted"] + count["attached"] + count["adopted"]
        if came != count["closed"] + count["detached"] or count["open"] or count["waiting"]:
            self.wrong.append(f"unaccounted for: {line[1]}")

    def judge_clients(self, cost, said):
        hurt = [client.trouble for client in self.clients if client.trouble]
        result = self.result
        if hasattr(self, "gone") and cost != answers.ALL:
            self.wrong.append(f"ended by itself: {self.gone}")
        if cost == answers.ALL and hurt:
            if not said:
                self.wrong.append("clients were lost, and nothing was said")
            result.outcome = "listener lost, said"
            return
        most = len(self.injected) if cost != answers.NOBODY else 0
        if len(hurt) > most:
            if not self.wrong and self.waited > WAITED and re.search(DEADLINES, said):
                result.outcome = "machine too busy"
                return
            self.wrong.append(f"{len(hurt)} clients were hurt, not {most}: {hurt[:3]}")
        result.outcome = result.outcome or ("one lost" if hurt else "all served")
