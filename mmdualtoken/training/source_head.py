"""A classifier's head for photos of several collections, each with classes of its own."""

from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from mmdualtoken.errors import WrongValue


@MODELS.register_module(force=True)
class SourceClsHead(LinearClsHead):
    """mmpretrain's LinearClsHead; a photo is compared with the classes of its own source only.

    Collections differ in size, blur and compression. One softmax over the classes of all rewards a
    model for telling the collections apart, and it then fails on photos of none of them. The
    source is what a file's name begins with: 'places_12.jpg'. Its classes are the folders beside
    that have such a file. Prediction knows no source; it compares all classes.

    Args:
        label_smooth: share of the target that all classes of the source have in common.
        kwargs: LinearClsHead's.

    Raises:
        WrongValue: a photo's name does not begin with a source, its source has one class only, or
            the folders are not as many as the classes.
    """

    def __init__(self, *args, label_smooth: float = 0.1, **kwargs):
        super().__init__(*args, **kwargs)
        self.label_smooth = label_smooth
        self._classes: dict[str, Tensor] = {}  # by source: (num_classes,), where it has photos

    def _classes_of(self, photo: str) -> Tensor:
        source = Path(photo).name.split("_")[0]
        if source not in self._classes:
            root = Path(photo).parents[1]
            folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
            has = [any(folder.glob(f"{source}_*")) for folder in folders]
            if sum(has) < 2 or len(has) != self.num_classes:
                raise WrongValue(
                    f"{photo}: {root} has {len(has)} folders, {sum(has)} of them with files named "
                    f"{source}_NUMBER. SourceClsHead wants {self.num_classes} folders, one per "
                    "class, and photos of each source in two of them or more. Begin names with "
                    "the source, not the class: SOURCE_NUMBER. For photos of one source, set "
                    "model.head.type='LinearClsHead'."
                )
            self._classes[source] = torch.tensor(has)
        return self._classes[source]

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample], **kwargs) -> dict:
        """Cross entropy over the classes of each photo's source; `feats` ends in (B, C)."""
        scores = self(feats)
        labels = torch.cat([sample.gt_label for sample in data_samples])
        allowed = torch.stack([self._classes_of(sample.img_path) for sample in data_samples])
        allowed = allowed.to(scores.device)
        logs = F.log_softmax(scores.masked_fill(~allowed, -1e4).float(), dim=1)
        right = logs.gather(1, labels[:, None]).squeeze(1)
        common = (logs * allowed).sum(1) / allowed.sum(1)
        smooth = self.label_smooth
        return {"loss": -((1 - smooth) * right + smooth * common).mean()}
