"""What a callback raises: it reaches the exception handler, or the language's usual place."""

import pytest

LOOPED = ("hosted", "loops")


@pytest.mark.variants(tls=True, gc=True)
def test_raise_in_the_handler(checker):
    with checker.client() as other:
        for text in "quite wrong", "größer ☃", "x" * 1000:
            with checker.client() as client:
                client.say("echo before", f"raise {text}", "echo never")
                assert client.read() == "before"
                checker.expect(f"^exception: {text} same$")
                client.see_end()
        assert other.ask("echo served") == "served"


@pytest.mark.parametrize("place", ["timer", "post", "watch"])
@pytest.mark.variants(LOOPED, gc=True)
def test_raise_without_a_connection(checker, place):
    with checker.client() as client:
        with checker.keeps_objects(client):
            for number in range(10):
                assert client.ask(f"raise-{place} number {number}") == "ok"
                checker.expect(f"^exception: number {number} same$")
        assert client.ask("echo and on") == "and on"


@pytest.mark.variants(tls=True, gc=True)
def test_raise_in_on_close(checker):
    """Nobody can be told: the text goes to stderr, and the server goes on."""
    with checker.client() as other:
        with checker.client() as client:
            client.say("raise-close in vain")
            client.see_end()
        checker.expect_error("in vain")
        assert other.ask("echo served") == "served"


@pytest.mark.options("--no-handler")
@pytest.mark.variants(gc=True)
def test_raise_without_a_handler(checker):
    with checker.client() as other:
        with checker.client() as client:
            client.say("raise nobody listens", "echo never")
            client.see_end()
        checker.expect_error("nobody listens")
        assert other.ask("echo served") == "served"
    assert "exception:" not in checker.output


@pytest.mark.options("--no-handler")
@pytest.mark.parametrize("place", ["timer", "post", "watch"])
@pytest.mark.variants(LOOPED)
def test_raise_without_a_connection_or_a_handler(checker, place):
    with checker.client() as client:
        assert client.ask(f"raise-{place} lost") == "ok"
        checker.expect_error("lost")
        assert client.ask("echo and on") == "and on"


@pytest.mark.variants(gc=True)
def test_a_hundred_exceptions_are_released(checker):
    # Another loop may still be ending the last connection when its client sees the end.
    with checker.client() as other, checker.keeps_objects(other):
        for number in range(100):
            with checker.client() as client:
                client.say(f"raise {number}")
                checker.expect(f"^exception: {number} same$")
                client.see_end()
