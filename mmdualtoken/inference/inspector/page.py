"""The page: what happens on a click."""

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from mmdualtoken.errors import InputError
from mmdualtoken.inference.inspector.captions import photo_caption, tokens_caption
from mmdualtoken.inference.inspector.drawing import (
    Panel,
    photo_panel,
    scales,
    token_at,
    tokens_panel,
)
from mmdualtoken.inference.inspector.export import export_figure
from mmdualtoken.inference.inspector.layout import Layout
from mmdualtoken.inference.inspector.selection import MEAN, Selection, first_selection, with_token
from mmdualtoken.inference.inspector.subject import Subject, View
from mmdualtoken.inference.inspector.upload import MAX_BYTES, check_photo

DOWNLOAD = "() => document.querySelector('#file')?.click()"


@dataclass(frozen=True)
class Shown:
    """What a visitor looks at; kept by Gradio for each of them."""

    photo: str
    notes: tuple[str, ...]
    views: tuple[View, ...]
    selection: Selection
    panels: tuple[tuple[Panel | None, Panel | None], ...] = ()


class Page(Layout):
    """The page for one model, or for two beside each other.

    Args:
        subjects: the models.
    """

    def __init__(self, subjects: list[Subject]):
        super().__init__(subjects)
        with self.blocks:
            self._connect()
        # One thing at a time: models and figures are not made for several threads.
        self.blocks.queue(max_size=16, default_concurrency_limit=1, api_open=False)

    def _connect(self) -> None:
        choice = [self.stage, self.block, self.head]
        outputs = [self.shown, self.message, *choice, self.across, self.down, self.token]
        for w in self.widgets:
            outputs += [w.prediction, w.said]
            outputs += [w.photo, w.photo_caption, w.tokens, w.tokens_caption]
        common = dict(
            concurrency_id="inspect", api_visibility="private", show_progress_on=self.message
        )
        redraws = dict(common, outputs=outputs, trigger_mode="always_last")
        # The drop zone is emptied each time, so that the same file can be dropped again.
        self.upload.upload(
            self._guarded(self._on_upload, {self.upload: None}),
            [self.shown, self.upload],
            **dict(redraws, outputs=[*outputs, self.upload], trigger_mode="once"),
        )
        # Each by itself: a stage has other blocks than the one whose block is still chosen.
        for name, widget in zip(("stage", "block", "head"), choice, strict=True):
            widget.input(self._on_choice(name), [self.shown, widget], **redraws)
        for slider in (self.across, self.down):
            places = [self.shown, self.across, self.down]
            slider.input(self._guarded(self._on_place), places, **redraws)
        self.token.input(self._guarded(self._on_token), [self.shown, self.token], **redraws)
        for i, w in enumerate(self.widgets):
            for image, handler in (
                (w.prediction, self._on_prediction),
                (w.photo, self._on_photo),
                (w.tokens, self._on_tokens),
            ):
                image.select(self._on_click(handler, i), [self.shown], **redraws)
        exported = self.export.click(
            self._guarded(self._on_export), [self.shown], [self.message, self.file], **common
        )
        exported.success(None, [self.file], None, js=DOWNLOAD)

    def _guarded(self, handler: Callable, always: dict | None = None) -> Callable:
        """The handler with its errors as a message on the page; what was shown stays."""

        def call(shown: Shown | None, *values: Any) -> dict:
            try:
                changes = handler(shown, *values)
            except InputError as error:
                changes = {self.message: f"**Not shown.** {error}"}
            except Exception as error:  # of the model: the page has to live on
                traceback.print_exc(file=sys.stderr)
                text = f"{type(error).__name__}: {str(error)[:300]}"
                changes = {self.message: f"**Not shown.** The model failed ({text})."}
            return {**changes, **(always or {})}

        return call

    def _on_click(self, handler: Callable, index: int) -> Callable:
        guarded = self._guarded(lambda shown, x, y: handler(_some(shown), index, x, y))

        def call(shown: Shown | None, event: gr.SelectData) -> dict:
            return guarded(shown, *event.index)

        return call

    def _on_upload(self, before: Shown | None, path: str) -> dict:
        file = Path(path)
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        file.unlink()
        photo = check_photo(file.name, content)
        views = [subject.look(photo) for subject in self.subjects]
        selection = first_selection(self.subjects, views, before and before.selection)
        shown = Shown(photo.name, photo.notes, tuple(views), selection)
        changes = self._redrawn(shown)
        for w, view in zip(self.widgets, views, strict=True):
            changes |= {w.prediction: view.prediction, w.said: view.said}
        return changes

    def _on_choice(self, name: str) -> Callable:
        def choose(shown: Shown | None, value: int | str) -> dict:
            shown = _some(shown)
            chosen = replace(shown.selection, **{name: None if value == MEAN else value})
            blocks = self._choices(chosen.stage)
            # A stage may have fewer blocks, and a block fewer heads, than the one before.
            block = min(chosen.block, len(blocks) - 1)
            head = None if chosen.head is None else min(chosen.head, blocks[block] - 1)
            return self._redrawn(shown, stage=chosen.stage, block=block, head=head)

        return self._guarded(choose)

    def _choices(self, stage: int) -> list[int]:
        """Heads of each block of a stage, of the model that has more of them."""
        stages = [s.heads[stage] for s in self.subjects if len(s.heads) > stage]
        return [max(h[i] for h in stages if i < len(h)) for i in range(max(map(len, stages)))]

    def _on_place(self, shown: Shown | None, across: float, down: float) -> dict:
        place = (min(across, 99.99) / 100, min(down, 99.99) / 100)  # 100 % is the last pixel
        return self._redrawn(_some(shown), place=place)

    def _on_token(self, shown: Shown | None, token: float) -> dict:
        shown = _some(shown)
        if not self.subjects[0].heads:
            raise InputError(self.subjects[0].statement)
        chosen = with_token(shown.selection, self.subjects, 0, int(token))
        return self._redrawn(shown, tokens=chosen.tokens)

    def _on_prediction(self, shown: Shown, index: int, x: float, y: float) -> dict:
        height, width = shown.views[index].prediction.shape[:2]
        return self._redrawn(shown, place=(x / width, y / height))

    def _on_photo(self, shown: Shown, index: int, x: float, y: float) -> dict:
        panel = shown.panels[index][0]
        share = panel and panel.share(x, y)
        if not share:  # on the colour bar
            return {}
        return self._redrawn(shown, place=shown.views[index].placement.to_photo(share))

    def _on_tokens(self, shown: Shown, index: int, x: float, y: float) -> dict:
        panel, subject = shown.panels[index][1], self.subjects[index]
        share = panel and panel.share(x, y)
        if not share:
            return {}
        token = token_at(subject, share)
        tokens = with_token(shown.selection, self.subjects, index, token).tokens
        return self._redrawn(shown, tokens=tokens)

    def _redrawn(self, shown: Shown, **changed: Any) -> dict:
        """What a changed selection makes of the page."""
        selection = replace(shown.selection, **changed)
        views, panels, changes = shown.views, [], {}
        scale = scales(self.subjects, views, selection)
        for subject, view, w in zip(self.subjects, views, self.widgets, strict=True):
            problem = selection.problem(subject)
            if problem:
                panels.append((None, None))
                changes |= {w.photo: None, w.photo_caption: problem}
                changes |= {w.tokens: None, w.tokens_caption: ""}
                continue
            photo = photo_panel(subject, view, selection, scale[0])
            tokens = tokens_panel(subject, view, selection, scale[1])
            panels.append((photo, tokens))
            said = tokens_caption(subject, view, selection)
            changes |= {
                w.photo: photo.image,
                w.photo_caption: photo_caption(subject, view, selection),
                w.tokens: tokens.image,
                w.tokens_caption: said if subject.has_grid else f"{said}\n\n{subject.statement}",
            }
        shown = replace(shown, selection=selection, panels=tuple(panels))
        return {**changes, self.shown: shown, **self._controls(shown)}

    def _controls(self, shown: Shown) -> dict:
        """The message, and the choices as they now stand."""
        selection = shown.selection
        notes = " ".join(shown.notes)
        changes: dict = {self.message: f"Shown: `{shown.photo}`, {selection.name}. {notes}"}
        across, down = (min(max(100 * p, 0), 100) for p in selection.place)
        changes |= {self.across: round(across, 1), self.down: round(down, 1)}
        changes |= {self.token: selection.tokens[0]}
        if any(s.heads for s in self.subjects):
            blocks = self._choices(selection.stage)
            heads = [MEAN, *range(blocks[selection.block])]
            head = MEAN if selection.head is None else selection.head
            changes |= {
                self.stage: selection.stage,
                self.block: gr.Dropdown(list(range(len(blocks))), value=selection.block),
                self.head: gr.Dropdown(heads, value=head),
            }
        return changes

    def _on_export(self, shown: Shown | None) -> dict:
        shown = _some(shown)
        selection = shown.selection
        figure = export_figure(self.subjects, shown.views, selection, shown.photo)
        stem = re.sub(r"[^\w-]+", "_", f"{Path(shown.photo).stem}_{selection.name}")
        folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
        file = folder / f"{stem}.png"
        figure.savefig(file, dpi=150)
        return {self.file: str(file), self.message: f"Exported: `{file.name}`."}


def _some(shown: Shown | None) -> Shown:
    """What is shown.

    Raises:
        InputError: nothing is, or no longer.
    """
    if shown is None:
        raise InputError("There is no photo yet, or it is no longer kept. Drop one.")
    return shown
