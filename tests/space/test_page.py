"""The chat in a real browser: type, drop a picture, see answers, search the gallery, on a wide and a narrow page."""

import os
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from tests import webdriver
from tests.space.conftest import REPLIES
from tests.webdriver import Browser, wait_for

ROOT = Path(__file__).parents[2]
GRADIO = ROOT / ".venv-gradio"  # written by `make test-page`
SHOTS = ROOT / "demo_output" / "app"
ENTER = "\ue007"
BOX, FILES = "#message textarea", "#message input[type=file]"
TEXT = "return document.querySelector(arguments[0])?.innerText || ''"
LOADED = "return [...document.querySelectorAll(arguments[0])].filter(i => i.naturalWidth > 0).length"
# Whatever a person can use has a name for those who do not see it.
UNNAMED = """
const named = e => e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.title
    || e.innerText?.trim() || e.placeholder || e.querySelector?.('[aria-label],title,img[alt]:not([alt=""])');
return [...document.querySelectorAll('input:not([type=hidden]):not([type=file]),textarea,button')]
    .filter(e => e.offsetParent !== null && !named(e)).map(e => e.outerHTML.slice(0, 200));
"""
NO_ALT = "return [...document.querySelectorAll('#chat img, #found img, #gallery img')].filter(i => !i.alt).length"
OVERFLOW = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(served, gallery):
    """`unimur app` in a process of its own."""
    webdriver.require()
    if not (GRADIO / "gradio").is_dir():
        pytest.skip("The page needs Gradio, which holds Pillow back and is installed aside: make test-page")
    work, port, pictures = served[0], webdriver.free_port(), str(gallery[0].parent)
    path = [GRADIO, ROOT, Path(sysconfig.get_paths()["purelib"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "GRADIO_TEMP_DIR": str(work / "temp")}
    command = [sys.executable, "-m", "modeling_unimur.cli.main", "app", "--no-browser", "--port", str(port)]
    with (work / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [*command, "--model", str(work / "model"), "--index", str(work / "index"), "--allow-folder", pictures],
            cwd=work, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        assert process.poll() is None, (work / "log.txt").read_text()[-3000:]
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            return opener.open(url, timeout=5).status == 200
        except OSError:
            return False

    try:
        wait_for(answers, 120, "the page")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def browser(address):
    with Browser() as opened:
        opened.go(address)
        opened.find(BOX)
        yield opened


def test_type_drop_and_see(browser, gallery):
    browser.type(BOX, f"look who slept here{ENTER}")
    wait_for(lambda: any(reply in browser.run(TEXT, "#chat") for reply in REPLIES), what="a reply")
    assert "look who slept here" in browser.run(TEXT, "#chat")
    wait_for(lambda: browser.run(LOADED, "#found img") == 3, what="three pictures")
    before = browser.run(LOADED, "#chat img")
    assert before == 1
    browser.type(FILES, str(gallery[0]))
    wait_for(lambda: browser.run(LOADED, "#message img") >= 1, what="the upload")
    browser.type(BOX, f"and this one?{ENTER}")
    wait_for(lambda: browser.run(LOADED, "#chat img") == before + 2, what="the picture and the answer")
    browser.screenshot(SHOTS / "wide.png")
    assert browser.run(UNNAMED) == []
    assert browser.run(NO_ALT) == 0
    browser.click("#again")
    wait_for(lambda: "look who slept here" not in browser.run(TEXT, "#chat"), what="a new conversation")


def test_the_gallery_and_the_policy(browser):
    wait_for(lambda: browser.run(LOADED, "#gallery img") == 6, what="the gallery")
    browser.type("#words textarea, #words input", f"yellow{ENTER}")
    first = "return document.querySelector('#gallery img')?.alt || ''"
    wait_for(lambda: "yellow" in browser.run(first), what="the yellow one first")
    browser.type("#policy input[type=number]", "\ue009a\ue0001\ue004")  # Control-A, 1, Tab
    browser.type(BOX, f"good morning{ENTER}")
    wait_for(lambda: "No image" in browser.run(TEXT, "#status"), what="no image")
    assert browser.run(LOADED, "#found img") == 0


def test_images_of_a_visitor(browser, tmp_path):
    wait_for(lambda: browser.run(LOADED, "#gallery img") == 6, what="the gallery")
    Image.new("RGB", (40, 40), "orange").save(tmp_path / "my_own.png")
    browser.type("input[data-testid$='upload-button']", str(tmp_path / "my_own.png"))
    wait_for(lambda: browser.run(LOADED, "#gallery img") == 1, what="the visitor's image")
    browser.type(BOX, f"good morning{ENTER}")
    wait_for(lambda: browser.run(LOADED, "#found img") == 1, what="an answer out of it")
    browser.click("#back")
    wait_for(lambda: browser.run(LOADED, "#gallery img") == 6, what="the gallery again")


def test_what_is_no_picture_is_refused(browser, tmp_path):
    (tmp_path / "fake.png").write_bytes(b"no picture at all")
    browser.type(FILES, str(tmp_path / "fake.png"))
    browser.type(BOX, f"look{ENTER}")
    wait_for(lambda: "fake.png cannot be read" in browser.run(TEXT, "body"), what="the refusal")
    Image.frombytes("L", (4200, 4200), os.urandom(4200 * 4200)).save(tmp_path / "large.png", compress_level=0)
    assert (tmp_path / "large.png").stat().st_size > 10_000_000
    browser.go(browser.run("return location.href"))
    browser.type(FILES, str(tmp_path / "large.png"))
    wait_for(lambda: "maximum allowed size of 10" in browser.run(TEXT, ".toast-body"), what="the limit of 10 MB")


def test_a_phone(browser, address):
    browser.resize(390, 844)
    browser.go(address)
    browser.type(BOX, f"good morning{ENTER}")
    wait_for(lambda: browser.run(LOADED, "#found img") == 3, what="three pictures")
    assert browser.run("return innerWidth") == 390
    assert browser.run(OVERFLOW) <= 0
    browser.screenshot(SHOTS / "phone.png")
