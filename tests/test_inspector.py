"""The inspector without a browser: places, choices, pictures, the server and the command."""

import http.client
import re
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import narrow
import numpy as np
import pytest
import torch
from helpers import randomise
from mmengine.config import Config
from tasks import TASKS
from test_inspector_upload import file_of, picture
from test_predict import write_checkpoint

from mmdualtoken.errors import InputError
from mmdualtoken.inference import load_model
from mmdualtoken.inference.tokens import inspect_tokens

gradio = pytest.importorskip("gradio", reason="needs Gradio: requirements/inspector.txt")
httpx = pytest.importorskip("httpx", reason="needs Gradio: requirements/inspector.txt")

from mmdualtoken.inference.inspector import server  # noqa: E402
from mmdualtoken.inference.inspector.attention_view import (  # noqa: E402
    STRIP,
    AttentionView,
    Selection,
    color_limits,
    export_figure,
    first_selection,
)
from mmdualtoken.inference.inspector.inspected_model import (  # noqa: E402
    InspectedModel,
    Inspection,
    Placement,
    find_placement,
)
from mmdualtoken.inference.inspector.photo import MAX_BYTES, check_photo  # noqa: E402


def inspected_model(task="classification", letter="A", **backbone):
    """A narrow model with weights that attend unevenly."""
    cfg = Config.fromfile(TASKS[task][0])
    cfg.model.backbone.update(backbone)
    torch.manual_seed(0)
    model = randomise(narrow.build(cfg))
    torch.save(dict(state_dict=model.state_dict()), f"{letter}.pth")
    return InspectedModel(letter, cfg, f"{letter}.pth", score_thr=0.0)


PHOTO = check_photo("photo.png", file_of(picture(96, 64), "PNG"))


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """A model with 7×7 tokens, one with 3×5, one with 8 tokens without places."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("models"))
        return (
            inspected_model(),
            inspected_model(letter="B", token_size=(3, 5)),
            inspected_model(letter="B", token_module="normal", token_size=8),
        )


# --- places


def place(task, width, height, pipeline=None):
    cfg = Config.fromfile(TASKS[task][0])
    if pipeline is not None:
        steps = cfg.test_dataloader.dataset.pipeline
        cfg.test_dataloader.dataset.pipeline = [steps[0], *pipeline, steps[-1]]
    return find_placement(load_model(cfg, write_checkpoint(task)), height, width)


CROP = [dict(type="ResizeEdge", scale=80, edge="short"), dict(type="CenterCrop", crop_size=64)]


@pytest.mark.parametrize(
    "task, size, pipeline, scale, shift",
    [
        ("detection", (80, 96), None, (53 / 64, 1), (0, 0)),  # padded at the right
        ("classification", (80, 96), None, (1, 1), (0, 0)),  # stretched
        # The short edge becomes 80, the middle 64×64 are kept.
        ("classification", (200, 100), CROP, (160 / 64, 80 / 64), (-48 / 64, -8 / 64)),
    ],
)
def test_placement(task, size, pipeline, scale, shift, here):
    found = place(task, *size, pipeline)
    np.testing.assert_allclose([found.scale, found.shift], [scale, shift], atol=0.03)
    there = found.to_input((0.5, 0.25))
    np.testing.assert_allclose(there, np.multiply((0.5, 0.25), scale) + shift, atol=0.03)
    np.testing.assert_allclose(found.to_photo(there), (0.5, 0.25), atol=1e-6)
    assert (found.to_input((0.1, 0.5)) is None) == (pipeline is CROP)


def test_placement_of_another_pipeline(here):
    steps = [dict(type="Resize", scale=(64, 64)), dict(type="Rotate", angle=40.0, prob=1.0)]
    with pytest.raises(InputError, match="does more than resize, crop, flip and pad"):
        place("classification", 64, 64, steps)


# --- predictions and choices


@pytest.mark.parametrize("task", TASKS)
def test_inspect(task, here):
    """The maps are those of inspect_tokens, the words those of the prediction."""
    model = inspected_model(task)
    seen = model.inspect(PHOTO)
    image = model.predictor.decode(PHOTO.name, PHOTO.content)
    (sample,) = model.predictor.predict([model.predictor.prepare(image)])
    record = model.predictor.record(sample)
    if task == "detection":
        assert f"{len(record['scores'])} objects with a score above 0" in seen.summary
        assert f"{record['label_names'][0]} {record['scores'][0]:.2f}" in seen.summary
    else:
        first = record.get("top", record.get("classes"))[0]
        assert f"{first['name']} {first.get('score', first.get('share')):.2f}" in seen.summary
        assert re.search("no (score )?threshold", seen.summary)
    maps = inspect_tokens(model.model, image)
    assert model.heads == {(0, 0): 2, (1, 0): 2, (2, 0): 2}
    assert set(seen.broadcast) == set(model.heads)
    np.testing.assert_array_equal(seen.broadcast[1, 0], maps.blocks[1].broadcast[0])
    assert seen.prediction.shape[:2] == (683, 1024) and seen.picture.shape == (64, 64, 3)
    assert "7×7" in model.title and task in model.title


def test_models_without_a_grid(classifiers, here):
    """A statement instead of a map: no tokens, or tokens without places."""
    none, normal = inspected_model(token_module="none"), classifiers[2]
    seen = [none.inspect(PHOTO), normal.inspect(PHOTO)]
    assert seen[0].broadcast == {} and "no global tokens" in none.title
    assert "no global tokens" in Selection().missing_in(none)
    assert "8 tokens" in normal.statement and "no grid" in normal.statement
    chosen = first_selection([none, normal], seen, None)
    view = AttentionView(normal, seen[1], Selection(chosen.stage, 0, tokens=(0, 3)))
    assert "token 3" in view.describe("photo") and view.area("tokens") == (640, 160)
    assert view.draw("tokens", (0.0, 2.0)).shape == (160 + STRIP, 640, 3)


def test_first_selection_and_captions(classifiers):
    model = classifiers[0]
    seen = model.inspect(PHOTO)
    chosen = first_selection([model], [seen], None)
    assert (chosen.stage, chosen.block, chosen.head, chosen.place) == (2, 0, None, (0.5, 0.5))
    assert chosen.tokens == (seen.broadcast[2, 0].mean(0)[1, 1].argmax(),)
    chosen = Selection(0, 0, 1, (0.3, 0.9), (30,))
    view = AttentionView(model, seen, chosen)
    read = seen.broadcast[0, 0][1, 7, 2]
    best = int(read.argmax())
    np.testing.assert_allclose(view.weights_of("tokens"), read * 49)
    assert "row 7, column 2** of 8×8" in view.describe("tokens") and "head 1" in view.describe(
        "tokens"
    )
    most = f"Most: token row {best // 7}, column {best % 7} ({100 * read.max():.1f} %)"
    assert most in view.describe("tokens") and read.max() * 49 > 1.1
    where = seen.broadcast[0, 0][1, :, :, 30] * 49
    assert "**token row 4, column 2**" in view.describe("photo")
    assert f"{where.min():#.3g} to {where.max():#.3g} times" in view.describe("photo")
    again = first_selection([model], [seen], chosen)  # another photo: block and head stay
    assert (again.name, again.place) == (chosen.name, (0.5, 0.5))
    seen.broadcast[0, 0][1, 7, 2] = 1 / 49
    assert "evenly from all" in AttentionView(model, seen, chosen).describe("tokens")


def test_choices_of_two_models(classifiers):
    """What a model lacks is said; a token's share of the grid chooses the other's."""
    a, b, row = classifiers
    assert "0.0, 1.0, 2.0" in Selection(0, 1).missing_in(a)
    assert "heads 0 to 1" in Selection(0, 0, 2).missing_in(a)
    assert Selection(0, 0, 1).missing_in(a) == ""
    assert Selection().with_token([a, b], 0, 48) == (48, 14)
    assert Selection().with_token([a, b], 1, 5) == (21, 5)  # (1, 0) of 3×5: (3, 0) of 7×7
    assert Selection().with_token([a, row], 0, 48) == (48, 0)


# --- pictures


def test_pictures_show_the_weights(classifiers):
    """Yellow is where the weight is: in the photo for the token, in the grid for the place."""
    broadcast = np.full((2, 8, 8, 49), 1 / 49, np.float32)
    broadcast[:, 2, 5] = np.arange(49) == 33
    grey = np.full((64, 64, 3), 128, np.uint8)
    seen = Inspection(grey, "", grey, Placement(), {(0, 0): broadcast})
    model = classifiers[0]
    view = AttentionView(model, seen, Selection(0, 0, None, (5.5 / 8, 2.5 / 8), (33,)))
    limits, token_limits = (color_limits([view.weights_of(part)]) for part in ("photo", "tokens"))
    assert limits == pytest.approx((1, 49)) and token_limits == pytest.approx((0, 49))

    def yellowest(image, spots):
        spots = np.round(spots).astype(int)
        colours = image[spots][:, spots].astype(int)
        yellow = colours[..., 0] - colours[..., 2]
        return np.unravel_index(yellow.argmax(), yellow.shape)

    image = view.draw("photo", limits)
    assert image.shape == (640 + STRIP, 640, 3) and view.area("photo") == (640, 640)
    assert yellowest(image, np.arange(15, 640, 80)) == (
        2,
        5,
    )  # a corner of each, away from the cross
    assert yellowest(view.draw("tokens", token_limits), (np.arange(7) + 0.2) * 640 / 7) == (4, 5)
    other = AttentionView(model, seen, Selection(0, 0, None, (0.1, 0.1), (33,)))
    assert color_limits([other.weights_of("tokens")]) == pytest.approx((0.95, 1.05))
    gone = AttentionView(model, seen, Selection(0, 0, None, (1.1, 0.1), (33,)))
    assert gone.cell is None and "cropped away" in gone.describe("tokens")
    assert color_limits([gone.weights_of("tokens")]) == pytest.approx((0.95, 1.05))
    assert gone.draw("tokens", (0.95, 1.05)).shape == image.shape


def test_export(tmp_path):
    """Captions are kept as they are, also with dollar signs, which are no formulas."""
    pixels = np.zeros((9, 9, 3), np.uint8)
    rows = [[(pixels, "a$b_$c"), (None, "no **tokens**"), (None, "")]] * 2
    figure = export_figure("a$b_$c.png", rows)
    figure.savefig(tmp_path / "out.png", dpi=40)
    texts = [t.get_text() for t in figure.findobj(lambda t: hasattr(t, "get_text"))]
    assert "a$b_$c.png" in texts
    assert texts.count("a$b_$c") == texts.count("no tokens") == 2


# --- server and command


def test_server_is_bounded(classifiers, here, monkeypatch):
    """Large bodies, foreign names, files outside and a taken port are refused, without a proxy."""
    (here / "secret").touch()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nothing listens there
    with server.serve_page([classifiers[0]]) as url, httpx.Client(trust_env=False) as client:
        assert url.startswith("http://127.0.0.1:")
        answer = client.get(url)
        assert answer.status_code == 200 and "Token inspector" in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert client.get(url, headers={"host": "evil.example"}).status_code == 400
        for secret in (here / "secret", "/etc/passwd"):
            assert client.get(f"{url}gradio_api/file={secret}").status_code in (403, 404)
        upload = f"{url}gradio_api/upload"
        fits = client.post(upload, files={"files": ("a.png", bytes(100))})
        assert fits.status_code == 200 and Path(fits.json()[0]).is_file()
        large = client.post(upload, files={"files": ("a.png", bytes(MAX_BYTES + 1))})
        assert large.status_code == 413
        announced = http.client.HTTPConnection("127.0.0.1", httpx.URL(url).port, timeout=60)
        announced.putrequest("POST", "/gradio_api/queue/join")
        announced.putheader("content-length", str(MAX_BYTES + 2**21))
        announced.endheaders()  # answered before the body comes
        assert announced.getresponse().status == 413
        assert client.post(upload, content=iter([b"x"])).status_code == 413  # no length
        port = httpx.URL(url).port
        for address in (("127.0.0.1", port), ("nosuchhost.invalid", 0)):
            with pytest.raises(InputError, match="Host {}, port {}".format(*address)):
                server.serve_page([classifiers[0]], *address).__enter__()
    assert not Path(fits.json()[0]).exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_one_event_at_a_time(classifiers):
    """Models and figures are not made for several threads."""
    page = server.Page([classifiers[0]])
    handlers = [fn for fn in page.blocks.fns.values() if fn.fn]
    assert len(handlers) > 10
    assert {(fn.concurrency_id, fn.concurrency_limit) for fn in handlers} == {("inspect", 1)}


def test_without_gradio(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, printed = tool("inspector", TASKS["classification"][0], "model.pth")
    assert status == 2 and "pip install -r requirements/inspector.txt" in printed


def test_command(here, tool, monkeypatch):
    """Errors are reported before a page opens; valid arguments reach the server."""
    served = []

    @contextmanager
    def serve_page(*arguments):
        served.append(arguments)
        yield "http://127.0.0.1:7860/"

    monkeypatch.setattr(server, "serve_page", serve_page)
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: True)
    config = TASKS["classification"][0]
    write_checkpoint("classification")
    write_checkpoint("detection", "detector.pth")
    status, printed = tool("inspector", config, "detector.pth")
    assert status == 2 and "detector.pth" in printed
    for wrong in (["--port", "70000"], ["--score-thr", "2"], ["--compare-cfg-options", "a=1"]):
        assert tool("inspector", config, "model.pth", *wrong)[0] == 2
    assert not served
    monkeypatch.setenv("DISPLAY", ":0")
    status, printed = tool("inspector", config, "model.pth", "--score-thr", "0.5")
    assert status == 0 and "http://127.0.0.1:7860/" in printed and "Warning" not in printed
    models, *where = served.pop()  # and whether a browser opens
    assert [m.letter for m in models] == ["A"] and where == ["127.0.0.1", 7860, True]
    assert models[0].predictor.score_thr == 0.5
    other = ["--compare", TASKS["detection"][0], "detector.pth", "--host", "0.0.0.0", "--port", "0"]
    other.append("--no-browser")
    status, printed = tool("inspector", config, "model.pth", *other)
    assert "Warning" in printed and "0.0.0.0" in printed
    models, *where = served.pop()
    assert [m.predictor.task for m in models] == ["classification", "detection"]
    assert where == ["0.0.0.0", 0, False]
