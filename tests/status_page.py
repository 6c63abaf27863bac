#!/usr/bin/env python3
"""Looks at the page of the example `status` in a headless Chromium, by WebDriver: what it shows, live,
in light and dark, on a wide and on a narrow screen. With `--write FOLDER` it writes the picture of the
page there."""

import base64
import contextlib
import json
import pathlib
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.request

import harness
from harness import Program, connect, equal, exchange

# A browser on a busy machine takes its time.
harness.patience = 60.0
write_to = None


class Browser:
    """A session of a browser, which ends with it."""

    def __init__(self, driver_port):
        self.base = f"http://127.0.0.1:{driver_port}"
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-")
        # As root, and in a container, it has no sandbox of its own.
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--hide-scrollbars", f"--user-data-dir={self.profile.name}"]
        options = {"goog:chromeOptions": {"args": arguments},
                   "goog:loggingPrefs": {"browser": "ALL"}}
        value = self._call("/session", {"capabilities": {"alwaysMatch": options}})
        self.base += "/session/" + value["sessionId"]

    def _call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, method=method)
        with urllib.request.urlopen(request, timeout=harness.patience) as answer:
            return json.load(answer)["value"]

    def open(self, url):
        self._call("/url", {"url": url})

    def run(self, script):
        return self._call("/execute/sync", {"script": f"return {script}", "args": []})

    def devtools(self, command, **parameters):
        return self._call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screen(self, width, height, mobile=False):
        self.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                      deviceScaleFactor=1, mobile=mobile)

    def scheme(self, name):
        feature = {"name": "prefers-color-scheme", "value": name}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def picture(self):
        return base64.b64decode(self.devtools(
            "Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def complaints(self):
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def close(self):
        with contextlib.suppress(OSError):
            self._call("", method="DELETE")
        self.profile.cleanup()


@contextlib.contextmanager
def browser():
    port = harness.free_port()
    with Program(["chromedriver", f"--port={port}"], valgrind=False) as driver:
        driver.expect("started successfully")
        session = Browser(port)
        try:
            yield session
        finally:
            session.close()
            driver.process.terminate()
            driver.process.wait(harness.patience)


def text(page, of):
    return page.run(f"document.querySelector({json.dumps(of)}).textContent")


def rows(page, of):
    """A table of the page: its names and numbers."""
    script = f"""[...document.querySelectorAll('#{of} tr')].map(row =>
        [row.children[0].textContent, +row.children[2].textContent.replace(/,/g, '')])"""
    return dict(page.run(script))


def metric(port, name):
    answer = exchange(connect(port), b"GET /metrics HTTP/1.1\r\n\r\n").decode()
    return float(re.search(rf"^netserver_{re.escape(name)} (\S+)$", answer, re.M).group(1))


class Traffic(threading.Thread):
    """Clients that come and go, until it is stopped; some are reset."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.over = port, threading.Event()

    def run(self):
        number = 0
        while not self.over.wait(0.02):
            number += 1
            with connect(self.port) as client:
                if number % 7 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                client.sendall(b"GET /report HTTP/1.1\r\n\r\n")
                harness.read_to_end(client)

    def stop(self):
        self.over.set()
        self.join()


def luminance(color):
    """Of a CSS colour (WCAG 2.1, relative luminance)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(page, of):
    """Of the text of an element and what is behind it."""
    one, two = page.run(f"""(() => {{
        let element = document.querySelector('{of}');
        const color = getComputedStyle(element).color;
        while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)')
            element = element.parentElement;
        return [color, getComputedStyle(element).backgroundColor];
    }})()""")
    light, dark = sorted([luminance(one), luminance(two)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def check_colors(page):
    backgrounds = []
    for scheme in "light", "dark":
        page.scheme(scheme)
        backgrounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
        for of in "h1", "h2", "output", "small", "#state", "#about", "th", "td.count":
            assert contrast(page, of) >= 4.5, (scheme, of, contrast(page, of))
    assert luminance(backgrounds[0]) > 0.8 and luminance(backgrounds[1]) < 0.05, backgrounds


def check_screens(page):
    for width, height, mobile in (1200, 900, False), (375, 667, True), (320, 568, True):
        page.screen(width, height, mobile)
        equal(page.run("innerWidth"), width)
        assert page.run("document.documentElement.scrollWidth") <= width, width
        small = page.run("""[...document.querySelectorAll('body *')].filter(element =>
            element.textContent && parseFloat(getComputedStyle(element).fontSize) < 12)
            .map(element => element.tagName)""")
        equal(small, [])
    page.screen(1200, 900)


def shown(page, port, name):
    """The page shows what it is asked for to show, and draws it."""
    page.screen(1200, 900)
    page.open(f"http://127.0.0.1:{port}/")
    harness.wait_until(lambda: text(page, "#state") == "running", "the first event")
    kind = "loop" if name == "non-blocking" else "worker"
    equal(text(page, "#threads h2"), f"Connections per {kind}")
    traffic = Traffic(port)
    traffic.start()
    # Some that stay, so that the threads have something to show.
    held = [connect(port) for _ in range(2 if kind == "worker" else 9)]
    for client in held:
        if kind == "loop":
            client.sendall(b"GET /events HTTP/1.1\r\n\r\n")
    points = "document.querySelector('#accepts .curve').getAttribute('d').split('L').length"
    harness.wait_until(lambda: text(page, "#accepts output") != "\u2013", "a rate")
    harness.wait_until(lambda: page.run(points) >= 4, "four points of a curve")
    harness.wait_until(lambda: float(text(page, "#accepts output")) > 1, "accepted connections")
    for rate in "in", "out":
        assert re.fullmatch(r"[\d.]+ (B|kB)", text(page, f"#{rate} output")), rate
        assert text(page, f"#{rate} output") != "0 B", rate
    harness.wait_until(lambda: sum(rows(page, "threads").values()) >= 3, "connections of threads")
    equal(list(rows(page, "threads")), [f"{kind} {i}" for i in range(4)])
    harness.wait_until(lambda: rows(page, "closed").get("reset", 0) > 0, "resets")
    for rate in "waiting", "refused", "handshakes", "failures", "errors":
        assert text(page, f"#{rate} output") != "\u2013", rate
    # All charts have a curve inside of their frames.
    boxes = page.run("""[...document.querySelectorAll('svg.line')].map(svg => {
        const frame = svg.getBoundingClientRect();
        const curve = svg.querySelector('.curve').getBoundingClientRect();
        return [frame.height, frame.width, curve.top >= frame.top - 2,
                curve.bottom <= frame.bottom + 2, curve.right <= frame.right + 2];
    })""")
    equal(len(boxes), 9)
    assert all(box[0] > 30 and box[1] > 100 and all(box[2:]) for box in boxes), boxes
    check_colors(page)
    check_screens(page)
    if write_to and kind == "loop":
        harness.wait_until(lambda: page.run(points) >= 25, "a curve for the picture")
        height = page.run("Math.ceil(document.body.getBoundingClientRect().height)")
        page.scheme("light")
        page.screen(1000, height)
        (write_to / "status-page.png").write_bytes(page.picture())
    traffic.stop()
    # It is live: when the clients have gone, it says what the metrics say.
    for client in held:
        client.close()
    closed = lambda: metric(port, 'closed_connections_total{reason="reset"}')
    harness.wait_until(lambda: rows(page, "closed")["reset"] == closed(), "the same resets")
    harness.wait_until(lambda: sum(rows(page, "threads").values()) <= 2, "that they have gone")
    # Nothing comes from elsewhere.
    origins = page.run("""performance.getEntriesByType('resource')
        .map(entry => new URL(entry.name).origin).filter(origin => origin !== location.origin)""")
    equal(origins, [])
    equal(page.complaints(), [])


def check(mode):
    name = "non-blocking" if mode else "blocking"
    program = [harness.c_program("examples-c", "status"), "-t", "4"] + mode
    with browser() as page:
        port = harness.free_port()
        with Program(program + [f"127.0.0.1:{port}"]) as server:
            server.port()
            shown(page, port, name)
            server.stop()
        harness.wait_until(lambda: text(page, "#state") == "no answer", "that it has ended")
        # The page goes on by itself with the next server, whose counters are new.
        with Program(program + [f"127.0.0.1:{port}"]) as server:
            server.port()
            harness.wait_until(lambda: text(page, "#state") == "running", "the next server")
            server.stop()


arguments = sys.argv[1:]
if arguments[:1] == ["--write"]:
    write_to = pathlib.Path(arguments[1])
    arguments = arguments[2:]
harness.main("status-page", [
    ("non-blocking", lambda: check(["-n"])),
    ("blocking", lambda: check([])),
], arguments)
