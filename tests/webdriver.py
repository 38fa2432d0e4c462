"""A browser by the WebDriver protocol: the little of it that the tests of pages need."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of an element's id


def require() -> None:
    """Skips the test where Chromium or its driver is missing, and says what to install."""
    packages = {"chromium": "chromium", "chromedriver": "chromium-driver"}
    missing = [package for program, package in packages.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"The tests of pages need a browser: apt-get install {' '.join(missing)}")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds: float = 30.0, what: str = ""):
    """Its value as soon as it is true.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(RuntimeError):
            if value := condition():
                return value
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what or condition}")
        time.sleep(0.2)


class Browser:
    """A headless Chromium: `with Browser(width, height) as browser:`."""

    def __init__(self, width: int = 1200, height: int = 900):
        port = free_port()
        self._base = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: self._call("GET", "/status")["ready"], what="chromedriver")
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-proxy-server"]
        capabilities = {"alwaysMatch": {"goog:chromeOptions": {"args": [*options, f"--window-size={width},{height}"]}}}
        session = self._call("POST", "/session", {"capabilities": capabilities})
        self._session = f"/session/{session['sessionId']}"

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(RuntimeError):
            self._call("DELETE", self._session)
        self._driver.terminate()
        self._driver.wait(timeout=20)

    def _call(self, method: str, path: str, body: "dict | None" = None):
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.loads(error.read())["value"]["message"]) from error
        except OSError as error:
            raise RuntimeError(str(error)) from error

    def go(self, url: str) -> None:
        """Opens a page."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def find(self, css: str) -> str:
        """The first element that a selector finds, when it is there."""
        body = {"using": "css selector", "value": css}
        return wait_for(lambda: self._call("POST", f"{self._session}/element", body), what=css)[_ELEMENT]

    def type(self, css: str, text: str) -> None:
        """Types into an element; a file's path into an input for files."""
        self._call("POST", f"{self._session}/element/{self.find(css)}/value", {"text": text})

    def click(self, css: str) -> None:
        """Clicks on an element."""
        self._call("POST", f"{self._session}/element/{self.find(css)}/click")

    def run(self, script: str, *arguments):
        """What a script returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def resize(self, width: int, height: int) -> None:
        """Gives the window another size."""
        self._call("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def screenshot(self, path: Path) -> None:
        """Keeps what is seen as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))
