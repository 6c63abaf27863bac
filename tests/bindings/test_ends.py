"""How a program ends that did not stop its server, while clients send; and what a fork does."""

import signal

import pytest
from programs import Traffic

MOST = 5.0  # seconds; the rule is 1, on a machine that is not busy

ends = {
    "return": 0,
    "exit": 7,
    "throw": "throw",
    "sigint": "sigint",
    "sigterm": "sigterm",
}


@pytest.mark.parametrize("end", ends)
@pytest.mark.variants(tls=True, gc=True)
def test_end_while_clients_send(checker, language, note, end):
    status = ends[end]
    traffic = Traffic(checker)
    if end.startswith("sig"):
        number = getattr(signal, end.upper())
        status = language.statuses[status]
        seconds = checker.end_at(lambda: checker.process.send_signal(number), status)
    else:
        status = language.statuses.get(status, status)
        with checker.client() as client:
            seconds = checker.end_at(lambda: client.say(f"end {end}"), status)
    traffic.join()
    if end == "throw":
        checker.expected_errors.append("what it threw")
        assert checker.stderr()
    elif end == "sigint":
        checker.expected_errors.append("what the language says then")
    checker.check_remains()
    note(f"{seconds:.2f} s")
    assert seconds < MOST


@pytest.mark.variants(tls=True)
def test_stop_while_clients_send(checker, note):
    traffic = Traffic(checker)
    with checker.client() as client:
        seconds = checker.end_at(lambda: client.say("stop"), 0)
    traffic.join()
    assert checker.output.endswith("stopped\n")
    checker.check_remains()
    note(f"{seconds:.2f} s")


@pytest.mark.variants(gc=True)
def test_fork(checker):
    with checker.client() as client, checker.client() as other:
        for _ in range(3):
            assert client.ask("fork") == "fork NS_ERR_STATE"
            assert client.ask("echo and on") == "and on"
        assert other.ask("echo served") == "served"
        with checker.client() as late:
            assert late.ask("echo served") == "served"
