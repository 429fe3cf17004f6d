"""What the page consists of."""

from dataclasses import dataclass

import gradio as gr

from mmdualtoken.inference.inspector.selection import MEAN
from mmdualtoken.inference.inspector.subject import Subject
from mmdualtoken.inference.inspector.upload import MAX_BYTES, MAX_PIXELS

INTRODUCTION = f"""# Token inspector

Drop a photo. **Click a place in the photo**, drawn in grey as the model gets it, to see which
global tokens it reads from; **click a token** to see where it is broadcast. Shown is the attention
of the global broadcast: image tokens (the cells of a feature map) read from the global tokens, a
softmax over the tokens.
Rows, columns, stages, blocks and heads count from 0. Photos up to {MAX_BYTES // 2**20} MiB and
{MAX_PIXELS // 10**6} million pixels; they stay on this machine.
"""
#: Nothing is fetched from elsewhere: the reader's own fonts.
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """
#message {border-left: 4px solid var(--color-accent); padding: 6px 12px; min-height: 52px;}
.clickable img {cursor: crosshair;}
footer {display: none;}
"""


@dataclass
class Widgets:
    """The components of one model."""

    prediction: gr.Image
    said: gr.Markdown
    photo: gr.Image
    photo_caption: gr.Markdown
    tokens: gr.Image
    tokens_caption: gr.Markdown


class Layout:
    """The components for one model, or for two beside each other.

    Args:
        subjects: the models.
    """

    def __init__(self, subjects: list[Subject]):
        self.subjects = subjects
        self.blocks = gr.Blocks(
            title="mmdualtoken: token inspector",
            analytics_enabled=False,
            delete_cache=(120, 600),
            fill_width=True,
        )
        with self.blocks:
            self._lay_out()

    def _lay_out(self) -> None:
        gr.Markdown(INTRODUCTION)
        gr.Markdown("\n\n".join(f"**{s.title}**" for s in self.subjects), elem_id="models")
        with gr.Row():
            self.upload = gr.File(label="Photo: drop it here", height=140, elem_id="upload")
            with gr.Column():
                heads = max((s.heads for s in self.subjects), key=len)
                with gr.Row():
                    choices = dict(interactive=True, min_width=90)
                    self.stage = gr.Dropdown(
                        list(range(len(heads))),
                        value=None,
                        label="Stage",
                        elem_id="stage",
                        **choices,
                    )
                    self.block = gr.Dropdown([], label="Block", elem_id="block", **choices)
                    self.head = gr.Dropdown([MEAN], label="Head", elem_id="head", **choices)
                self.export = gr.Button("Export the picture (PNG)", elem_id="export")
                self.file = gr.DownloadButton(visible="hidden", elem_id="file")
        self.message = gr.Markdown("No photo yet.", elem_id="message")
        self.widgets = self._rows() if len(self.subjects) > 1 else self._row()
        with gr.Accordion("Choose without a mouse", open=False, elem_id="keyboard"), gr.Row():
            slider = dict(interactive=True, minimum=0)
            self.across = gr.Slider(
                maximum=100, value=50, step=0.5, label="Place: % from the left", **slider
            )
            self.down = gr.Slider(
                maximum=100, value=50, step=0.5, label="Place: % from the top", **slider
            )
            self.token = gr.Slider(
                maximum=max(1, self.subjects[0].num_tokens - 1), value=0, step=1,
                label=f"Token of {self.subjects[0].letter}, row by row", **slider,
            )  # fmt: skip
        self.shown = gr.State(None, time_to_live=3600)

    def _image(self, label: str, name: str) -> gr.Image:
        return gr.Image(
            label=label, show_label=False, elem_id=name, interactive=False, format="png",
            height=430, buttons=[], elem_classes="clickable", alt_text=label,
        )  # fmt: skip

    def _part(self, subject: Subject, part: str) -> tuple[gr.Image, gr.Markdown]:
        labels = dict(
            prediction="Prediction",
            photo="Photo: click a place",
            tokens="Tokens: click one",
        )
        letter = f"{subject.letter}: " if len(self.subjects) > 1 else ""
        with gr.Column(min_width=300):
            gr.Markdown(f"**{letter}{labels[part]}**")
            image = self._image(letter + labels[part], f"{part}-{subject.letter}")
            text = gr.Markdown(elem_id=f"{part}-{subject.letter}-text")
        return image, text

    def _row(self) -> list[Widgets]:
        """One model: its three pictures beside each other."""
        with gr.Row():
            parts = [self._part(self.subjects[0], p) for p in ("prediction", "photo", "tokens")]
        return [Widgets(*(widget for part in parts for widget in part))]

    def _rows(self) -> list[Widgets]:
        """Two models beside each other, a row for each kind of picture."""
        found: list[list] = [[] for _ in self.subjects]
        for part in ("prediction", "photo", "tokens"):
            with gr.Row():
                for widgets, subject in zip(found, self.subjects, strict=True):
                    widgets += self._part(subject, part)
        return [Widgets(*widgets) for widgets in found]
