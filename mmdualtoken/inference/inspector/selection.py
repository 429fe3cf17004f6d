"""What is chosen on the page: stage, block, head, a place in the photo and a token."""

from dataclasses import dataclass, replace

import numpy as np

from mmdualtoken.inference.inspector.subject import Subject, View

MEAN = "mean"


@dataclass(frozen=True)
class Selection:
    """The same for all models of the page; each model finds its own cell and token for it."""

    stage: int = 0
    block: int = 0
    #: None for the mean of all heads.
    head: int | None = None
    #: Shares of the photo's width and height; beyond 0 to 1 in what a model pads.
    place: tuple[float, float] = (0.5, 0.5)
    #: The chosen global token of each model.
    tokens: tuple[int, ...] = ()

    def problem(self, subject: Subject) -> str:
        """Why a model has nothing to show for this choice; empty if it has."""
        if not subject.heads:
            return subject.statement
        blocks = subject.heads[self.stage : self.stage + 1]
        if not blocks:
            return f"This model has stages 0 to {len(subject.heads) - 1}."
        if self.block >= len(blocks[0]):
            return f"Stage {self.stage} of this model has blocks 0 to {len(blocks[0]) - 1}."
        heads = blocks[0][self.block]
        if self.head is not None and self.head >= heads:
            return f"This block of this model has heads 0 to {heads - 1}."
        return ""

    @property
    def name(self) -> str:
        """Block as in the state dict, and head."""
        head = "mean of heads" if self.head is None else f"head {self.head}"
        return f"stages.{self.stage}.blocks.{self.block}, {head}"

    def attention(self, view: View) -> np.ndarray:
        """(H, W, n) of the chosen block and head."""
        heads = view.broadcast[self.stage, self.block]
        return heads.mean(0) if self.head is None else heads[self.head]

    def cell(self, view: View) -> tuple[int, int] | None:
        """(row, column) of the image token at the place; None if the model does not see it."""
        found = view.placement.to_input(self.place)
        if found is None:
            return None
        height, width = self.attention(view).shape[:2]
        return int(found[1] * height), int(found[0] * width)


def first_selection(
    subjects: list[Subject], views: list[View], before: Selection | None = None
) -> Selection:
    """The last block of the last stage, or the block and head of the choice before; the middle of
    the photo and the token it reads most."""
    none = (0,) * len(subjects)
    if before is None:
        heads = max((s.heads for s in subjects), key=len)
        stage = max(len(heads) - 1, 0)
        blocks = [len(s.heads[stage]) for s in subjects if len(s.heads) > stage]
        chosen = Selection(stage, max(min(blocks, default=1) - 1, 0), tokens=none)
    else:
        chosen = Selection(before.stage, before.block, before.head, tokens=none)
    tokens = [
        0 if chosen.problem(subject) else most_read(chosen, view)
        for subject, view in zip(subjects, views, strict=True)
    ]
    return replace(chosen, tokens=tuple(tokens))


def most_read(selection: Selection, view: View) -> int:
    """The token that the chosen place reads most from; 0 where there is no such place."""
    cell = selection.cell(view)
    return 0 if cell is None else int(selection.attention(view)[cell].argmax())


def with_token(selection: Selection, subjects: list[Subject], index: int, token: int) -> Selection:
    """Choose a token of one model, and in the others the one at the same share of the grid.

    A grid and a row without places have nothing in common: there, the others keep their choice.
    """
    clicked = subjects[index]
    h, w = clicked.token_size
    row, column = divmod(token, w)
    tokens = list(selection.tokens)
    for i, other in enumerate(subjects):
        if other.heads and other.has_grid == clicked.has_grid:
            rows, columns = other.token_size
            tokens[i] = int((row + 0.5) / h * rows) * columns + int((column + 0.5) / w * columns)
    tokens[index] = token
    return replace(selection, tokens=tuple(tokens))
