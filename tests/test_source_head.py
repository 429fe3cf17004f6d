"""Pretraining on several collections: one softmax per source, and photos of one size."""

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from mmpretrain.datasets import CustomDataset  # noqa: F401 registers the transforms
from mmpretrain.structures import DataSample

from mmdualtoken.config_files import config_path
from mmdualtoken.errors import WrongValue

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
#: Files by class; both collections have photos of 'cat'.
FOLDERS = dict(cat=("pets_1.jpg", "zoo_1.jpg"), dog=("pets_2.jpg",), lion=("zoo_2.jpg",))


def sample_of(root, label, name):
    sample = DataSample(metainfo=dict(img_path=f"{root}/train/{sorted(FOLDERS)[label]}/{name}"))
    return sample.set_gt_label(label)


def test_loss_over_the_classes_of_the_source(tmp_path):
    for folder, names in FOLDERS.items():
        (tmp_path / "train" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "train" / folder / name).touch()
    head = MODELS.build(dict(type="SourceClsHead", num_classes=3, in_channels=2, label_smooth=0.1))
    torch.nn.init.normal_(head.fc.weight, generator=torch.Generator().manual_seed(0))
    vectors = torch.tensor([[0.5, -1.0], [2.0, 0.3]])
    samples = [sample_of(tmp_path, 1, "pets_2.jpg"), sample_of(tmp_path, 0, "zoo_1.jpg")]
    loss = head.loss((vectors,), samples)["loss"]
    scores, expected = head.fc(vectors), 0
    for row, classes, right in ((scores[0], [0, 1], 1), (scores[1], [0, 2], 0)):
        logs = row[classes] - torch.logsumexp(row[classes], 0)
        expected -= (0.9 * logs[right] + 0.1 * logs.mean()) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    head.loss((vectors[:1],), samples[:1])["loss"].backward()
    assert head.fc.weight.grad[:2].abs().min() > 0 == head.fc.weight.grad[2].abs().max()
    assert set(head.state_dict()) == {"fc.weight", "fc.bias"}


WITHOUT_A_SOURCE = [
    (("photo.jpg", "photo.jpg"), 2, "has 2 folders, 0 of them"),
    (("cat_1.jpg", "dog_1.jpg"), 2, "has 2 folders, 1 of them"),
    (("pets_1.jpg", "pets_1.jpg"), 3, "has 2 folders, 2 of them.*wants 3 folders"),
]


@pytest.mark.parametrize(("names", "classes", "words"), WITHOUT_A_SOURCE)
def test_photos_without_a_source(tmp_path, names, classes, words):
    """A name that is no SOURCE_NUMBER, a source of one class, folders that are not the classes."""
    for folder, name in zip(("cat", "dog"), names, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    head = MODELS.build(dict(type="SourceClsHead", num_classes=classes, in_channels=2))
    photo = f"{tmp_path}/cat/{names[0]}"
    sample = DataSample(metainfo=dict(img_path=photo)).set_gt_label(0)
    with pytest.raises(WrongValue, match=words):
        head.loss((torch.zeros(1, 2),), [sample])


def compressed(quality):
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imdecode(cv2.imencode(".jpg", IMAGE, flags)[1], cv2.IMREAD_COLOR)


def test_one_quality():
    out = TRANSFORMS.build(dict(type="RandomJPEG", quality=(75, 75)))(dict(img=IMAGE, label=3))
    assert np.array_equal(out["img"], compressed(75)) and out["label"] == 3


def test_every_quality_of_the_range():
    transform = TRANSFORMS.build(dict(type="RandomJPEG", quality=(60, 62)))
    found = {transform(dict(img=IMAGE))["img"].tobytes() for _ in range(60)}
    assert found == {compressed(quality).tobytes() for quality in (60, 61, 62)}


@pytest.mark.parametrize("quality", [(0, 50), (80, 70), (90, 101)])
def test_wrong_quality(quality):
    with pytest.raises(ValueError, match="it must be two numbers of 1 to 100, ascending"):
        TRANSFORMS.build(dict(type="RandomJPEG", quality=quality))


@pytest.mark.parametrize("size", ["64px", "96px"])
def test_size_of_a_photo_does_not_matter(size, tmp_path):
    """The shipped classifiers see a large photo as they would see its copy of 64 pixels."""
    name = "mmpretrain/dualtoken_t_mix_photos393{}.py".format("" if size == "64px" else "_96px")
    cfg = Config.fromfile(config_path(name))
    init_default_scope("mmpretrain")
    see = Compose(cfg.test_dataloader.dataset.pipeline)
    photo = cv2.resize(IMAGE, (960, 640), interpolation=cv2.INTER_CUBIC)
    copies = {
        "large.png": photo,
        "small.png": cv2.resize(photo, (96, 64), interpolation=cv2.INTER_AREA),
    }
    seen = []
    for file, image in copies.items():
        cv2.imwrite(str(tmp_path / file), image)
        results = see(dict(img_path=str(tmp_path / file), gt_label=0))
        seen.append(results["inputs"].numpy().astype(int))
    assert seen[0].shape == (3, int(size[:2]), int(size[:2]))
    assert abs(seen[0] - seen[1]).max() <= 1
