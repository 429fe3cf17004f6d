"""The page: its components, and the effect of each click."""

import functools
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from mmdualtoken.errors import InputError
from mmdualtoken.inference.inspector.attention_view import (
    AttentionView,
    Selection,
    color_limits,
    export_figure,
    first_selection,
)
from mmdualtoken.inference.inspector.inspected_model import InspectedModel, Inspection
from mmdualtoken.inference.inspector.photo import MAX_BYTES, MAX_PIXELS, Photo, check_photo

INTRODUCTION = f"""# Token inspector

Drop a photo. **Click a place in the photo**, drawn in grey as the model gets it, to see which
global tokens it reads from; **click a token** to see where it is broadcast. Shown is the attention
of the global broadcast: image tokens (the cells of a feature map) read from the global tokens, a
softmax over the tokens.
Rows, columns, stages, blocks and heads count from 0. Photos up to {MAX_BYTES // 2**20} MiB and
{MAX_PIXELS // 10**6} million pixels; they stay on this machine.
"""
#: The reader's own fonts: nothing is fetched from elsewhere.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
#message {border-left: 4px solid var(--color-accent); padding: 6px 12px; min-height: 52px;}
.clickable img {cursor: crosshair;}
footer {display: none;}
"""
PARTS = {"prediction": "Prediction", "photo": "Photo: click a place", "tokens": "Tokens: click one"}
MEAN = "mean"
DOWNLOAD = "() => document.querySelector('#file')?.click()"


@dataclass(frozen=True)
class Visit:
    """One visitor's photo and choice, kept by Gradio."""

    photo: Photo
    seen: list[Inspection]
    selection: Selection


def _report_errors(handler: Callable, needs_photo: bool) -> Callable:
    """Show an InputError on the page. Gradio shows others itself, and prints their traceback."""

    @functools.wraps(handler)
    def call(visit: Visit | None, *args: Any) -> Any:
        try:
            if needs_photo and visit is None:
                raise InputError("There is no photo yet, or it is no longer kept. Drop one.")
            return handler(visit, *args)
        except InputError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error

    return call


class Page:
    """The page for one model, 'A', or for two side by side, 'A' and 'B'."""

    def __init__(self, models: list[InspectedModel]):
        self.models = models
        #: Heads of each (stage, block), of the model that has more of them.
        self.heads: dict[tuple[int, int], int] = {}
        for model in models:
            self.heads |= {b: max(n, self.heads.get(b, 0)) for b, n in model.heads.items()}
        with gr.Blocks(
            title="mmdualtoken: token inspector", analytics_enabled=False,
            delete_cache=(120, 600), fill_width=True,
        ) as self.blocks:  # fmt: skip
            self._add_components()
            self._connect()
        self.blocks.queue(max_size=16, api_open=False)

    def _add_components(self) -> None:
        gr.Markdown(INTRODUCTION)
        gr.Markdown("\n\n".join(f"**{m.title}**" for m in self.models), elem_id="models")
        with gr.Row():
            self.upload = gr.File(label="Photo: drop it here", height=140, elem_id="upload")
            with gr.Column():
                with gr.Row():
                    choices = dict(stage=sorted({s for s, _ in self.heads}), block=[], head=[MEAN])
                    self.lists = {
                        name: gr.Dropdown(
                            values, value=None, label=name.title(), elem_id=name, min_width=90
                        )
                        for name, values in choices.items()
                    }
                self.export = gr.Button("Export the picture (PNG)", elem_id="export")
                self.file = gr.DownloadButton(visible="hidden", elem_id="file")
        self.message = gr.Markdown("No photo yet.", elem_id="message")
        #: The picture and its caption, by part and number of the model.
        self.pictures: dict[tuple[str, int], tuple[gr.Image, gr.Markdown]] = {}
        numbers = range(len(self.models))
        rows = [[(part, i) for i in numbers] for part in PARTS]
        for row in rows if len(numbers) > 1 else [sum(rows, [])]:
            with gr.Row():
                for part, i in row:
                    self.pictures[part, i] = self._add_picture(part, self.models[i].letter)
        with gr.Accordion("Choose without a mouse", open=False, elem_id="keyboard"), gr.Row():
            self.across = gr.Slider(0, 100, 50, step=0.5, label="Place: % from the left")
            self.down = gr.Slider(0, 100, 50, step=0.5, label="Place: % from the top")
            last = max(1, self.models[0].num_tokens - 1)
            self.token = gr.Slider(0, last, 0, step=1, label="Token of A, row by row")
        self.visit = gr.State(None, time_to_live=3600)

    def _add_picture(self, part: str, letter: str) -> tuple[gr.Image, gr.Markdown]:
        label = PARTS[part] if len(self.models) == 1 else f"{letter}: {PARTS[part]}"
        with gr.Column(min_width=300):
            gr.Markdown(f"**{label}**")
            image = gr.Image(
                label=label, show_label=False, alt_text=label, elem_id=f"{part}-{letter}",
                interactive=False, format="png", height=430, buttons=[], elem_classes="clickable",
            )  # fmt: skip
            return image, gr.Markdown(elem_id=f"{part}-{letter}-text")

    def _connect(self) -> None:
        sliders = [self.across, self.down, self.token]
        shown = [self.visit, self.message, *self.lists.values(), *sliders]
        shown += [component for pair in self.pictures.values() for component in pair]
        # One event at a time: models and figures are not made for several threads.
        common = dict(
            concurrency_id="inspect", concurrency_limit=1, api_visibility="private",
            show_progress_on=self.message,
        )  # fmt: skip

        def on(event: Callable, handler: Callable, *inputs: Any, photo=True, **options: Any) -> Any:
            options = {**common, "outputs": shown, "trigger_mode": "always_last", **options}
            return event(_report_errors(handler, photo), [self.visit, *inputs], **options)

        uploaded = on(
            self.upload.upload, self._open_photo, self.upload, photo=False, trigger_mode="once"
        )
        for finished in (uploaded.success, uploaded.failure):  # the same file may be dropped again
            finished(lambda: None, None, self.upload, **common)
        # Each list by itself: another stage has other blocks than the one chosen before.
        for name, widget in self.lists.items():
            on(widget.input, functools.partial(self._choose, name), widget)
        for slider in (self.across, self.down):
            on(slider.input, self._choose_place, self.across, self.down)
        on(self.token.input, self._choose_token, self.token)
        for place, (image, _) in self.pictures.items():
            on(image.select, self._click_handler(*place))
        exported = on(self.export.click, self._export, outputs=[self.message, self.file])
        exported.success(None, self.file, None, js=DOWNLOAD)

    def _open_photo(self, visit: Visit | None, path: str) -> dict:
        file = Path(path)
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        file.unlink()
        photo = check_photo(file.name, content)
        seen = [model.inspect(photo) for model in self.models]
        selection = first_selection(self.models, seen, visit and visit.selection)
        return self._show(Visit(photo, seen, selection))

    def _choose(self, name: str, visit: Visit, value: int | str) -> dict:
        chosen = replace(visit.selection, **{name: None if value == MEAN else value})
        # A stage may have fewer blocks, and a block fewer heads, than the one before.
        block = max(b for s, b in self.heads if s == chosen.stage and b <= chosen.block)
        last = self.heads[chosen.stage, block] - 1
        head = None if chosen.head is None else min(chosen.head, last)
        return self._show(visit, stage=chosen.stage, block=block, head=head)

    def _choose_place(self, visit: Visit, across: float, down: float) -> dict:
        place = (min(across, 99.99) / 100, min(down, 99.99) / 100)  # 100 % is the last pixel
        values = self._show(visit, place=place)
        del values[self.across], values[self.down]  # the visitor may still be typing there
        return values

    def _choose_token(self, visit: Visit, token: float, index: int = 0) -> dict:
        if not self.models[index].heads:
            raise InputError(self.models[index].statement)
        tokens = visit.selection.with_token(self.models, index, int(token))
        return self._show(visit, tokens=tokens)

    def _click_handler(self, part: str, index: int) -> Callable:
        def click(visit: Visit, event: gr.SelectData) -> dict:
            seen, model = visit.seen[index], self.models[index]
            if part == "prediction":
                height, width = seen.prediction.shape[:2]
            elif reason := visit.selection.missing_in(model):  # a click on a picture that is gone
                raise InputError(reason)
            else:
                width, height = AttentionView(model, seen, visit.selection).area(part)
            x, y = event.index[0] / width, event.index[1] / height
            if not (0 <= x < 1 and 0 <= y < 1):  # on the colour bar
                return gr.skip()
            if part == "tokens":
                rows, columns = model.token_size
                return self._choose_token(visit, int(y * rows) * columns + int(x * columns), index)
            place = seen.placement.to_photo((x, y)) if part == "photo" else (x, y)
            return self._show(visit, place=place)

        return click

    def _draw(self, visit: Visit) -> dict[tuple[str, int], tuple[np.ndarray | None, str]]:
        """Draw the pictures, each with its caption."""
        drawn: dict = {}
        views = {}
        for i, (model, seen) in enumerate(zip(self.models, visit.seen, strict=True)):
            reason = visit.selection.missing_in(model)
            drawn["prediction", i] = (seen.prediction, seen.summary)
            drawn["photo", i], drawn["tokens", i] = (None, reason), (None, "")
            if not reason:
                views[i] = AttentionView(model, seen, visit.selection)
        for part in ("photo", "tokens"):
            limits = color_limits([view.weights_of(part) for view in views.values()])
            for i, view in views.items():
                drawn[part, i] = (view.draw(part, limits), view.describe(part))
        return drawn

    def _show(self, visit: Visit, **changed: Any) -> dict:
        """Change the selection, and return the new values of the components."""
        selection = replace(visit.selection, **changed)
        visit = replace(visit, selection=selection)
        across, down = (round(min(max(100 * p, 0), 100), 1) for p in selection.place)
        notes = " ".join(visit.photo.notes)
        message = f"Shown: `{visit.photo.name}`, {selection.name}. {notes}"
        values = {self.visit: visit, self.message: message, self.across: across, self.down: down}
        for place, drawn in self._draw(visit).items():
            values |= dict(zip(self.pictures[place], drawn, strict=True))
        if self.heads:
            stage, block = selection.stage, selection.block
            blocks = sorted(b for s, b in self.heads if s == stage)
            heads = [MEAN, *range(self.heads[stage, block])]
            head = MEAN if selection.head is None else selection.head
            lists = (stage, gr.Dropdown(blocks, value=block), gr.Dropdown(heads, value=head))
            values |= dict(zip(self.lists.values(), lists, strict=True))
            values[self.token] = selection.tokens[0]
        return values

    def _export(self, visit: Visit) -> dict:
        drawn = self._draw(visit)
        for i, model in enumerate(self.models):
            picture, summary = drawn["prediction", i]
            drawn["prediction", i] = (picture, f"{model.title}\n{summary}")
        rows = [[drawn[part, i] for part in PARTS] for i in range(len(self.models))]
        name = visit.selection.name
        stem = re.sub(r"[^\w-]+", "_", f"{Path(visit.photo.name).stem}_{name}")
        file = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]), f"{stem}.png")
        export_figure(f"{visit.photo.name}: {name}", rows).savefig(file, dpi=150)
        return {self.file: str(file), self.message: f"Exported: `{file.name}`."}
