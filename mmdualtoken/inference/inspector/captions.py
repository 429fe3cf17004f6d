"""What the pictures show, in words: which attention of which block and head, of what to what."""

import numpy as np

from mmdualtoken.inference.inspector.selection import Selection
from mmdualtoken.inference.inspector.subject import Subject, View

EVEN = 0.01  # weights times n that differ by less are written alike in the picture


def token_name(subject: Subject, token: int) -> str:
    """A global token by its place in the grid, rows and columns from 0, else by its number."""
    if not subject.has_grid:
        return f"token {token}"
    row, column = divmod(token, subject.token_size[1])
    return f"token row {row}, column {column}"


def photo_caption(subject: Subject, view: View, selection: Selection) -> str:
    """Of the photo's picture: where the chosen token is broadcast."""
    token = selection.tokens["AB".index(subject.letter)]
    weights = selection.attention(view)[..., token] * subject.num_tokens
    height, width = weights.shape
    return (
        f"Where **{token_name(subject, token)}** is broadcast: how much each of the "
        f"{height}×{width} image tokens reads from it in {selection.name}. Here "
        f"{weights.min():#.3g} to {weights.max():#.3g} times what reading evenly would give."
    )


def tokens_caption(subject: Subject, view: View, selection: Selection) -> str:
    """Of the tokens' picture: what the chosen place reads."""
    cell = selection.cell(view)
    if cell is None:
        return "The chosen place is cropped away before this model sees the photo: nothing reads."
    row, column = cell
    attention = selection.attention(view)
    height, width, number = attention.shape
    read = attention[cell]
    if np.ptp(read) * number < EVEN:
        most = "From all of them alike"
    else:
        order = read.argsort()[::-1][:3]
        names = (f"{token_name(subject, int(t))} ({100 * read[t]:.1f} %)" for t in order)
        most = f"Most: {', '.join(names)}"
    return (
        f"What the place at the red cross, **image token row {row}, column {column}** of "
        f"{height}×{width}, reads from each of the {number} global tokens in {selection.name} "
        f"(even: {100 / number:.1f} %). {most}."
    )
