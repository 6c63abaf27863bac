"""What a server costs that has nothing to do, and what remains of connections that are gone:
objects, memory, threads and descriptors."""

import re
import time

import harness
import pytest
from language import names_of_checks


def visit(server, count):
    for number in range(count):
        client = server.client()
        assert client.ask(f"echo {number}") == str(number)
        if number % 10 == 0:
            client.reset()
        else:
            client.socket.close()


@pytest.mark.variants(tls=True, gc=True)
def test_connections_leave_nothing(checker, is_quick, note):
    is_slow = checker.variant.tls or checker.variant.gc
    count = 500 if is_slow else 2000
    if not is_quick:
        count = 2000 if is_slow else 100000 if checker.variant.mode == "hosted" else 20000
    with checker.client() as other:
        with checker.keeps_objects(other):
            visit(checker, count // 5)
        memory, threads, descriptors = checker.memory(), checker.threads(), checker.descriptors()
        with checker.keeps_objects(other):
            visit(checker, count)
        grown = checker.memory() - memory
        note(f"{count} connections, {grown} KiB more")
        # A collector may let the heap grow for a while; what is lost at each connection shows.
        assert grown < 16 << 10
        # A language's runtime takes a few when it needs them, as Go's scheduler and poller do.
        few = 8
        assert checker.threads() <= threads + few
        harness.wait_until(
            lambda: checker.descriptors() <= descriptors + few, f"about {descriptors} descriptors"
        )


def test_idle_server_does_not_spin(checker, note):
    clients = [checker.client() for _ in range(10)]
    for client in clients:
        assert client.ask("echo hello") == "hello"
    before = checker.processor_time()
    time.sleep(2)  # what is measured is what this time takes
    used = checker.processor_time() - before
    note(f"{used * 50:.1f} % of a core")
    assert used < 0.2
    for client in clients:
        client.socket.close()


def test_answers_do_not_wait(checker, note):
    """For the end of a slice in which the program waits, for example."""
    with checker.client() as client:
        begun = time.monotonic()
        for number in range(500):
            assert client.ask(f"echo {number}") == str(number)
        seconds = time.monotonic() - begun
        note(f"{seconds * 2:.1f} ms each")
        assert seconds < 10


def test_holes_name_checks(language):
    """And each has a reason, which is in the binding's README too."""
    text = (harness.ROOT / "bindings" / language.folder / "README.md").read_text()
    for name, reason in language.holes.items():
        assert re.match(r"[a-z_]+", name)[0] in names_of_checks(), f"{name} is no check"
        words = " ".join(reason.split())
        assert words and words in " ".join(text.split()), f"the README does not say: {reason}"
