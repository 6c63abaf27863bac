"""Which checks of the table run: one language, all variants but its holes."""

import pathlib
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
from language import Language
from network import enter_own_network
from programs import Server

harness.patience = 30.0  # seconds that anything may take, on a busy machine too
measured = []  # lines for the end of the run
has_passed = pytest.StashKey[bool]()
programs = pytest.StashKey[list]()  # those that the check started


def pytest_addoption(parser):
    parser.addoption("--language", required=True, help="a folder of tests/bindings")
    parser.addoption("--quick", action="store_true", help="fewer variants, fewer connections")


def pytest_configure(config):
    config.addinivalue_line("markers", "variants(modes, tls, gc): in which ways a check runs")
    config.addinivalue_line("markers", "options(...): further options of the checker")
    config.table_language = Language(config.getoption("language"))
    # A shell that runs this in the background has it, and so the programs, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    enter_own_network()


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("variants")
        quick = metafunc.config.getoption("quick")
        language = metafunc.config.table_language
        arguments = (mark.args, mark.kwargs) if mark else ((), {})
        variants = language.variants(*arguments[0], **arguments[1], quick=quick)
        # None, which is deselected: with no variant at all pytest would report a skip.
        metafunc.parametrize("variant", variants or [None], ids=str)


def pytest_collection_modifyitems(config, items):
    holes = config.table_language.holes

    def is_hole(item):
        variant = item.callspec.params["variant"] if hasattr(item, "callspec") else None
        name = item.name.removeprefix("test_")
        return (
            name.partition("[")[0] in holes
            or name in holes
            or name.endswith("[None]")
            or (variant is not None and variant.gc and "gc" in holes)
        )

    left_out = [item for item in items if is_hole(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not is_hole(item)]


def pytest_terminal_summary(terminalreporter, config):
    for line in measured:
        terminalreporter.write_line(line)
    for name, reason in config.table_language.holes.items():
        terminalreporter.write_line(f"hole: {name}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    stats = config.pluginmanager.get_plugin("terminalreporter").stats
    count = {kind: len(stats.get(kind, [])) for kind in ("passed", "failed", "error")}
    print(f"table: {count['passed']} passed, {count['failed'] + count['error']} failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[has_passed] = report.passed
    if report.failed:
        for server in item.stash.get(programs, []):
            report.sections.append((f"the {server.kind}", server.account()))
    return report


@pytest.fixture
def language(request):
    return request.config.table_language


@pytest.fixture
def is_quick(request):
    return request.config.getoption("quick")


@pytest.fixture
def note(request):
    """Adds a line to the end of the run."""
    return lambda text: measured.append(f"{request.node.name.removeprefix('test_')}: {text}")


@pytest.fixture
def start(language, tmp_path, request):
    """Starts programs, which it ends by force where a check failed; then it is told what became of
    them and what they said."""
    running = request.node.stash[programs] = []

    def begin(kind, variant, *options, **settings):
        server = Server(language, kind, variant, *options, folder=tmp_path, **settings)
        running.append(server)
        return server

    yield begin
    for server in running:
        server.__exit__()


def end_in_order(server, request):
    if request.node.stash.get(has_passed, False) and server.process.poll() is None:
        server.end()


@pytest.fixture
def checker(start, variant, request):
    """A checker, which stops in order after a check that passed."""
    mark = request.node.get_closest_marker("options")
    server = start("checker", variant, *(mark.args if mark else ())).is_ready()
    yield server
    end_in_order(server, request)


@pytest.fixture
def echo(start, variant, request):
    """An echo server, which stops in order after a check that passed."""
    server = start("echo", variant).is_ready()
    yield server
    end_in_order(server, request)
