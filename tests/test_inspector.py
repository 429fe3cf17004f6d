"""The inspector without its page: places, choices, pictures, the server and the command."""

import asyncio
import os
import socket
import sys

import narrow
import numpy as np
import pytest
import torch
from helpers import randomise
from matplotlib.figure import Figure
from mmengine.config import Config
from tasks import TASKS
from test_inspector_upload import file_of, picture
from test_predict import here, write_checkpoint  # noqa: F401

from mmdualtoken.data.loading import decode
from mmdualtoken.errors import InputError
from mmdualtoken.inference import load_model
from mmdualtoken.inference.inspector import server
from mmdualtoken.inference.inspector.captions import photo_caption, tokens_caption
from mmdualtoken.inference.inspector.drawing import (
    STRIP,
    photo_panel,
    scales,
    token_at,
    tokens_panel,
)
from mmdualtoken.inference.inspector.export import export_figure
from mmdualtoken.inference.inspector.placement import Placement, find_placement
from mmdualtoken.inference.inspector.selection import (
    Selection,
    first_selection,
    most_read,
    with_token,
)
from mmdualtoken.inference.inspector.server import bind, check_gradio, make_app
from mmdualtoken.inference.inspector.subject import Subject, View
from mmdualtoken.inference.inspector.upload import MAX_BYTES, check_photo
from mmdualtoken.inference.tokens import inspect_tokens

gradio = pytest.importorskip("gradio", reason="needs Gradio: requirements/inspector.txt")


def subject(task="classification", letter="A", **backbone):
    """A narrow model with weights that attend unevenly."""
    cfg = Config.fromfile(TASKS[task][0])
    cfg.model.backbone.update(backbone)
    torch.manual_seed(0)
    model = randomise(narrow.build(cfg))
    torch.save(dict(state_dict=model.state_dict()), f"{letter}.pth")
    return Subject(letter, cfg, f"{letter}.pth", score_thr=0.0)


PHOTO = check_photo("photo.png", file_of(picture(96, 64), "PNG"))


# --- places


def place(task, width, height, pipeline=None):
    cfg = Config.fromfile(TASKS[task][0])
    if pipeline is not None:
        steps = cfg.test_dataloader.dataset.pipeline
        cfg.test_dataloader.dataset.pipeline = [steps[0], *pipeline, steps[-1]]
    return find_placement(load_model(cfg, write_checkpoint(task)), height, width)


@pytest.mark.parametrize(
    "task, scale",
    [("detection", (53 / 64, 1)), ("segmentation", (1, 1)), ("classification", (1, 1))],
)
def test_placement(task, scale, here):  # noqa: F811
    """A detector's photo is padded at the right; the others' are stretched."""
    found = place(task, 80, 96)
    np.testing.assert_allclose(found.scale, scale, atol=0.02)
    np.testing.assert_allclose(found.shift, (0, 0), atol=0.02)
    there = found.to_input((0.5, 0.25))
    np.testing.assert_allclose(there, (0.5 * scale[0], 0.25), atol=0.02)
    np.testing.assert_allclose(found.to_photo(there), (0.5, 0.25), atol=1e-6)


def test_placement_of_a_crop(here):  # noqa: F811
    """The short edge becomes 80, the middle 64×64 are kept."""
    steps = [dict(type="ResizeEdge", scale=80, edge="short"), dict(type="CenterCrop", crop_size=64)]
    found = place("classification", 200, 100, steps)
    np.testing.assert_allclose(found.scale, (160 / 64, 80 / 64), atol=0.03)
    np.testing.assert_allclose(found.shift, (-48 / 64, -8 / 64), atol=0.03)
    assert found.to_input((0.1, 0.5)) is None


def test_placement_of_another_pipeline(here):  # noqa: F811
    steps = [dict(type="Resize", scale=(64, 64)), dict(type="Rotate", angle=40.0, prob=1.0)]
    with pytest.raises(InputError, match="does more than resize, crop, flip and pad"):
        place("classification", 64, 64, steps)


# --- what is seen


@pytest.mark.parametrize("task", TASKS)
def test_look(task, here):  # noqa: F811
    """The maps are those of inspect_tokens, the words those of the prediction."""
    seen = subject(task)
    view = seen.look(PHOTO)
    (record,) = seen.predictor.predict([seen.predictor.prepare(decode(PHOTO.name, PHOTO.content))])
    record = seen.predictor.record(record)
    if task == "detection":
        assert view.said.startswith(f"Prediction: {len(record['scores'])} objects with a score ab")
        assert f"{record['label_names'][0]} {record['scores'][0]:.2f}" in view.said
    else:
        first = record.get("top", record.get("classes"))[0]
        assert f"{first['name']} {first.get('score', first.get('share')):.2f}" in view.said
        assert "no" in view.said and "threshold" in view.said
    maps = inspect_tokens(seen.model, decode(PHOTO.name, PHOTO.content))
    assert set(view.broadcast) == {(0, 0), (1, 0), (2, 0)} and seen.heads == [[2], [2], [2]]
    np.testing.assert_array_equal(view.broadcast[1, 0], maps.blocks[1].broadcast[0])
    assert view.prediction.shape[1] == 640 and view.picture.shape == (64, 64, 3)
    assert "7×7 position-aware tokens" in seen.title and task in seen.title


def test_models_without_a_grid(here):  # noqa: F811
    """A statement instead of a map: no tokens, tokens without places, another backbone."""
    none = subject(token_module="none")
    view = none.look(PHOTO)
    assert view.broadcast == {} and none.num_tokens == 0
    assert "no global tokens (token_module NoTokens)" in Selection().problem(none)
    normal = subject(letter="B", token_module="normal", token_size=8)
    assert "The 8 tokens of this model (token_module NormalTokens) form no grid" in normal.statement
    assert normal.title.endswith("8 tokens without a grid)")
    views = [view, normal.look(PHOTO)]
    selection = first_selection([none, normal], views)
    assert "token 3" in photo_caption(normal, views[1], with_tokens(selection, 0, 3))
    panel = tokens_panel(normal, views[1], selection, (0.0, 2.0))
    assert panel.image.shape == (160 + STRIP, 640, 3)
    assert token_at(normal, panel.share(639, 10)) == 7
    assert isinstance(export_figure([none, normal], views, selection, "a.png"), Figure)


def with_tokens(selection, *tokens):
    return Selection(selection.stage, selection.block, tokens=tokens)


def test_first_selection_and_captions(here):  # noqa: F811
    seen = subject()
    view = seen.look(PHOTO)
    chosen = first_selection([seen], [view])
    assert (chosen.stage, chosen.block, chosen.head, chosen.place) == (2, 0, None, (0.5, 0.5))
    chosen = Selection(0, 0, 1, (0.3, 0.9), (30,))
    assert chosen.cell(view) == (7, 2) and chosen.name == "stages.0.blocks.0, head 1"
    read = view.broadcast[0, 0][1, 7, 2].copy()
    best = int(read.argmax())
    assert most_read(chosen, view) == best and read.max() * 49 > 1.1
    said = tokens_caption(seen, view, chosen)
    assert "image token row 7, column 2** of 8×8" in said and "49 global tokens" in said
    assert f"Most: token row {best // 7}, column {best % 7} ({100 * read.max():.1f} %)" in said
    again = first_selection([seen], [view], chosen)  # another photo: block and head stay
    assert (again.name, again.place) == (chosen.name, (0.5, 0.5))
    assert again.tokens == (most_read(again, view),)
    view.broadcast[0, 0][1, 7, 2] = 1 / 49
    assert tokens_caption(seen, view, chosen).endswith("(even: 2.0 %). From all of them alike.")
    view.broadcast[0, 0][1, 7, 2] = read
    where = view.broadcast[0, 0][1, :, :, 30] * 49
    said = photo_caption(seen, view, chosen)
    assert "**token row 4, column 2**" in said and "head 1" in said
    assert f"Here {where.min():#.3g} to {where.max():#.3g} times" in said


def test_problems_and_tokens_of_other_grids(here):  # noqa: F811
    a, b = subject(), subject(letter="B", token_size=(3, 5))
    assert Selection(0, 1).problem(a) == "Stage 0 of this model has blocks 0 to 0."
    assert Selection(3, 0).problem(a) == "This model has stages 0 to 2."
    assert Selection(0, 0, 2).problem(a) == "This block of this model has heads 0 to 1."
    assert Selection(0, 0, 1).problem(a) == ""
    both = Selection(tokens=(0, 0))
    assert with_token(both, [a, b], 0, 48).tokens == (48, 14)
    assert with_token(both, [a, b], 1, 5).tokens == (21, 5)  # (1, 0) of 3×5: (3, 0) of 7×7
    c = subject(letter="B", token_module="normal", token_size=8)
    assert with_token(both, [a, c], 0, 48).tokens == (48, 0)


# --- pictures


def hot_view(cell, token):
    """Every image token reads evenly, but one, which reads one global token."""
    broadcast = np.full((2, 8, 8, 49), 1 / 49, np.float32)
    broadcast[:, cell[0], cell[1]] = 0
    broadcast[:, cell[0], cell[1], token] = 1
    grey = np.full((64, 64, 3), 128, np.uint8)
    return View(grey, "", grey, Placement(), {(0, 0): broadcast})


def test_panels_show_the_weights(here):  # noqa: F811
    """Yellow is where the weight is: in the photo for the token, in the grid for the place."""
    seen, view = subject(), hot_view((2, 5), 33)
    chosen = Selection(0, 0, None, (5.5 / 8, 2.5 / 8), (33,))
    photos, tokens = scales([seen], [view], chosen)
    assert photos == pytest.approx((1, 49)) and tokens == pytest.approx((0, 49))
    image = photo_panel(seen, view, chosen, photos).image
    assert image.shape == (640 + STRIP, 640, 3)
    corners = image[15:640:80, 15:640:80].astype(int)  # a corner of each cell, beside the cross
    yellow = corners[..., 0] - corners[..., 2]
    assert np.unravel_index(yellow.argmax(), yellow.shape) == (2, 5)
    panel = tokens_panel(seen, view, chosen, tokens)
    spots = np.round((np.arange(7) + 0.2) * 640 / 7).astype(int)
    spots = panel.image[spots][:, spots].astype(int)
    yellow = spots[..., 0] - spots[..., 2]
    assert divmod(33, 7) == np.unravel_index(yellow.argmax(), yellow.shape) == (4, 5)
    assert panel.share(320, 160) == (0.5, 0.25) and panel.share(320, 640) is None
    assert token_at(seen, panel.share(640 * 5.5 / 7, 640 * 4.5 / 7)) == 33
    other = Selection(0, 0, None, (0.1, 0.1), (33,))
    assert scales([seen], [view], other)[1] == pytest.approx((0.95, 1.05))


def test_export(here, tmp_path):  # noqa: F811
    """Names with a dollar sign are no formulas."""
    a, b = subject(), subject(letter="B", token_size=(3, 5))
    views = [a.look(PHOTO), b.look(PHOTO)]
    figure = export_figure([a, b], views, first_selection([a, b], views), "a$b_$c.png")
    figure.savefig(tmp_path / "out.png", dpi=40)
    texts = [t.get_text() for t in figure.findobj(lambda t: hasattr(t, "get_text"))]
    assert any(t.startswith("a$b_$c.png: stages.2.blocks.0, mean of heads") for t in texts)
    assert sum("7×7 position-aware" in t for t in texts) == 1
    assert sum("3×5 position-aware" in t for t in texts) == 1


# --- server and command


def test_bind():
    bound = bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    bound.listen()
    with pytest.raises(InputError, match=f"127.0.0.1, port {port} cannot be used"):
        bind("127.0.0.1", port)
    with socket.create_connection(("127.0.0.1", port), 5):
        bound.close()


def test_server_is_bounded(here):  # noqa: F811
    from starlette.testclient import TestClient

    os.environ["GRADIO_TEMP_DIR"] = str(here)
    try:
        client = TestClient(make_app([subject()], "127.0.0.1", 80), "http://127.0.0.1")
        answer = client.get("/")
        assert answer.status_code == 200 and "Token inspector" in answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        headers = {"content-length": str(MAX_BYTES + 2**21)}
        answer = client.post("/gradio_api/upload", headers=headers, content=b"x")
        assert (answer.status_code, answer.text) == (413, "At most 32 MiB are allowed.")
        headers = {"content-length": "many"}
        assert client.post("/gradio_api/upload", headers=headers, content=b"x").status_code == 413
    finally:
        del os.environ["GRADIO_TEMP_DIR"]


def test_a_body_without_a_length_is_bounded(monkeypatch):
    """Reading stops beyond the limit, as if the sender had gone."""
    monkeypatch.setattr(server, "MAX_BODY", 25)
    got = []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            got.append(message["body"])
        got.append(message["type"])

    async def receive():
        return {"type": "http.request", "body": bytes(10), "more_body": True}

    asyncio.run(server.Bounded(app)({"type": "http", "headers": []}, receive, None))
    assert got == [bytes(10), bytes(10), "http.disconnect"]


def test_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match="pip install -r requirements/inspector.txt"):
        check_gradio()


def test_command(here, tool, monkeypatch):  # noqa: F811
    """What is wrong is said before a page opens; what is right reaches the server."""
    served = []
    monkeypatch.setattr(server, "serve", lambda *a: served.append(a))
    config = TASKS["classification"][0]
    write_checkpoint("classification")
    write_checkpoint("detection", "detector.pth")
    status, printed = tool("inspector", config, "gone.pth")
    assert status == 2 and "gone.pth" in printed
    status, printed = tool("inspector", config, "detector.pth")
    assert status == 2 and "is of another model than the config's" in printed
    for wrong in (["--port", "70000"], ["--score-thr", "2"], ["--compare-cfg-options", "a=1"]):
        assert tool("inspector", config, "model.pth", *wrong)[0] == 2
    assert not served
    status, printed = tool("inspector", config, "model.pth", "--score-thr", "0.5")
    assert status == 0, printed
    (subjects, host, port, _) = served.pop()
    assert [s.letter for s in subjects] == ["A"] and (host, port) == ("127.0.0.1", 7860)
    assert subjects[0].predictor.score_thr == 0.5 and "Warning" not in printed
    other = ["--compare", TASKS["detection"][0], "detector.pth", "--host", "0.0.0.0", "--port", "0"]
    status, printed = tool("inspector", config, "model.pth", *other)
    assert "on 0.0.0.0 others in your network can reach the page" in printed
    (subjects, host, port, _) = served.pop()
    assert [s.predictor.task for s in subjects] == ["classification", "detection"]
    assert (host, port) == ("0.0.0.0", 0)
