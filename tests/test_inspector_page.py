"""The inspector's page in a real Chromium: load, upload, click, see the change, compare, export."""

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import browser
import numpy as np
import pytest
from narrow import ROOT
from PIL import Image
from selenium.webdriver.common.keys import Keys
from tasks import TASKS
from test_inspector import inspected_model, server
from test_inspector_upload import file_of, picture
from test_predict import write_checkpoint

from mmdualtoken.inference.inspector.photo import MAX_BYTES, check_photo


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chromium(downloads):
    driver = browser.new_browser(downloads)
    yield driver
    driver.quit()


def write(name, content):
    Path(name).write_bytes(content)
    return Path(name).resolve()


def most(weights):
    """The end of the caption of the tokens' picture, from the weights (49,)."""
    best = int(weights.argmax())
    return f"Most: token row {best // 7}, column {best % 7} ({100 * weights.max():.1f} %)"


def test_upload_click_and_see_the_change(here, chromium):
    """Words and pictures change with each click, and the words are the model's numbers; no other
    machine is asked for anything; the upload is deleted; another visitor has another page."""
    model = inspected_model()
    file = write("photo.png", file_of(picture(96, 64), "PNG"))
    with server.serve_page([model]) as url:
        page = browser.Visitor(chromium, url)
        assert "7×7 position-aware tokens" in page.text("models")
        assert page.drop(file) == "Shown: photo.png, stages.2.blocks.0, mean of heads."
        seen = model.inspect(check_photo("photo.png", file.read_bytes()))
        assert page.text("prediction-A-text") == seen.summary
        before = page.source("tokens-A")
        page.click("photo-A", 0.5, 0.99)  # the colour bar: neither a change nor an error
        said = page.changes("tokens-A-text", lambda: page.click("photo-A", 0.2, 0.2))
        assert "image token row 0, column 0 of 2×2" in said
        assert most(seen.broadcast[2, 0].mean(0)[0, 0]) in said
        assert page.source("tokens-A") != before
        assert not page.browser.find_elements("css selector", ".toast-body")
        before = page.source("photo-A")
        said = page.changes("photo-A-text", lambda: page.click("tokens-A", 6.5 / 7, 0.06))
        assert "Where token row 0, column 6 is broadcast" in said
        weights = seen.broadcast[2, 0].mean(0)[..., 6] * 49
        assert f"Here {weights.min():#.3g} to {weights.max():#.3g} times" in said
        assert page.source("photo-A") != before
        asked = page.asked()
        assert not list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob(file.name))  # gone once read
        another = browser.Visitor(chromium, url)  # who begins without a photo
        assert "no photo yet" in another.refused(another.element("#export").click)
    assert len(asked) > 10 and {urlsplit(u).hostname for u in asked} == {"127.0.0.1"}


@pytest.mark.slow
def test_choices_bad_uploads_and_export(here, chromium, downloads):
    """Stage and head by the lists, the place by the keyboard; a refused photo leaves the
    pictures; the exported picture arrives."""
    model = inspected_model()
    file = write("photo.png", file_of(picture(96, 64), "PNG"))
    with server.serve_page([model]) as url:
        page = browser.Visitor(chromium, url)
        assert "no photo yet" in page.refused(page.element("#export").click)
        page.drop(file)
        for box, option, name in (
            ("stage", "0", "stages.0.blocks.0, mean"),
            ("head", "1", "head 1"),
        ):
            page.element(f"#{box} input").click()
            (chosen,) = page.until(partial(page.options, option))
            said = page.changes("photo-A-text", chosen.click)
            assert name in said
        page.element("#keyboard button").click()
        page.until(lambda: page.element("#keyboard input[type=number]").is_displayed())
        across = page.element("#keyboard input[type=number]")
        across.send_keys(Keys.CONTROL, "a")
        said = page.changes("tokens-A-text", lambda: across.send_keys("99", Keys.TAB))
        page.until(lambda: "column 7 of 8×8" in page.text("tokens-A-text"))
        page.settle("photo-A")
        before = page.source("photo-A"), page.text("photo-A-text")
        bad = write("text.jpg", b"no picture")
        assert "text.jpg is no image that can be read" in page.refused(partial(page.upload, bad))
        large = write("large.png", bytes(MAX_BYTES + 1))  # the server stops reading
        assert "exceed" in page.refused(partial(page.upload, large)).lower()
        assert (page.source("photo-A"), page.text("photo-A-text")) == before
        noted = page.drop(write("alpha.png", file_of(picture(mode="RGBA"), "PNG")))
        assert noted.endswith("Its transparency is ignored.")
        page.element("#export").click()
        name = "alpha_stages_0_blocks_0_head_1.png"  # the choices stay with another photo
        page.until((downloads / name).is_file)
        with Image.open(downloads / name) as exported:
            assert exported.width > 1500 and np.asarray(exported).std() > 20


@pytest.mark.slow
def test_two_models(here, chromium):
    """A click in one's pictures changes the other's; of one without tokens, a statement says so."""
    first, second = inspected_model("detection"), inspected_model(letter="B", token_size=(3, 5))
    file = write("photo.png", file_of(picture(96, 64), "PNG"))
    with server.serve_page([first, second]) as url:
        page = browser.Visitor(chromium, url)
        page.drop(file)
        said = page.changes("tokens-B-text", lambda: page.click("photo-A", 0.2, 0.2))
        assert "row 0, column 0 of 2×2" in said and "15 global tokens" in said
        said = page.changes("photo-A-text", lambda: page.click("tokens-B", 0.5, 0.1))
        assert "token row 1, column 3" in said
        assert "token row 0, column 2" in page.text("photo-B-text")
        tops = [page.element(f"#photo-{x}").rect["y"] for x in "AB"]
        assert tops[0] == tops[1]
    other = inspected_model(letter="B", token_module="none")
    with server.serve_page([first, other]) as url:
        page = browser.Visitor(chromium, url)
        page.drop(file)
        assert "no global tokens (token_module NoTokens)" in page.text("photo-B-text")
        assert page.source("photo-A") and not page.source("photo-B") + page.source("tokens-B")
        assert page.text("prediction-B-text").startswith("Prediction: the classes")


@pytest.mark.slow
def test_narrow_screen(here, chromium):
    """At 400 pixels nothing is wider than the screen, and the pictures are below each other."""
    with server.serve_page([inspected_model()]) as url:
        chromium.set_window_size(400, 900)
        try:
            page = browser.Visitor(chromium, url)
            page.drop(write("photo.png", file_of(picture(96, 64), "PNG")))
            width = chromium.execute_script("return document.documentElement.scrollWidth")
            assert width <= chromium.execute_script("return window.innerWidth")
            places = [page.element(f"#{n}-A").rect for n in ("prediction", "photo", "tokens")]
            assert len({p["x"] for p in places}) == 1
            assert places[0]["y"] < places[1]["y"] < places[2]["y"]
            page.changes("tokens-A-text", lambda: page.click("photo-A", 0.2, 0.2))
        finally:
            chromium.set_window_size(1280, 1600)


@pytest.mark.slow
def test_the_tool_itself(here, chromium):
    """As a separate process: it names a loopback address, serves, and ends at Ctrl-C while a
    page is open, without a traceback."""
    write_checkpoint("detection")
    # A parent may ignore Ctrl-C.
    command = ["env", "--default-signal=INT", sys.executable, str(ROOT / "tools" / "inspector.py")]
    command += [TASKS["detection"][0], "model.pth", "--score-thr", "0.1", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        found = (re.match(r"Inspector: (http://127.0.0.1:\S+)", line) for line in process.stdout)
        page = browser.Visitor(chromium, next(filter(None, found))[1])
        page.drop(write("photo.png", file_of(picture(96, 64), "PNG")))
        assert "objects with a score above 0.1" in page.text("prediction-A-text")
        process.send_signal(signal.SIGINT)
        printed = process.stdout.read()
        assert process.wait() == 128 + signal.SIGINT
    finally:
        process.kill()
    assert "Traceback" not in printed and printed.endswith("Stopped by Ctrl-C.\n")
