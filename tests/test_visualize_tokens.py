"""inspect_tokens and tools/visualize_tokens.py: attention, contributions, and no trace left."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NARROW, build, rand, randomise
from mmengine.config import Config
from mmpretrain import get_model
from tasks import TASKS
from test_predict import write_checkpoint, write_images

import mmdualtoken
from mmdualtoken.errors import InputError
from mmdualtoken.inference import load_model
from mmdualtoken.inference.token_figures import all_figures, key_tokens
from mmdualtoken.inference.tokens import inspect_tokens

VARIANTS = {
    "mix": dict(token_mlp="mix"),
    "mlp-3x5": dict(token_size=(3, 5)),
    "normal": dict(token_module="normal", token_size=8),
    "msa": dict(token_module="msa", token_size=8),
    "window": dict(local_encoder="window"),
}


def backbone(**settings):
    return randomise(build(**settings)).eval()


def recorded(modules, run):
    """Record by hooks inputs and outputs of modules while `run` runs."""
    seen = {}
    for name, module in modules.items():
        module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, (i, o)))
    run()
    return seen


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_are_what_the_modules_compute(variant):
    """Weights sum to 1; weights @ values is the output of the broadcast; the contributions add
    up to the output of the block's projection."""
    model = backbone(**VARIANTS[variant])
    image = rand(2, 3, 72, 88, dtype=torch.float32)
    maps = inspect_tokens(model, image)
    number = maps.token_size[0] * maps.token_size[1]
    assert number == {"mix": 49, "mlp-3x5": 15, "window": 49}.get(variant, 8)
    assert maps.grid == (variant not in ("normal", "msa"))
    assert [(b.stage, b.block) for b in maps.blocks] == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    modules = {}
    for b in maps.blocks:
        block = model.stages[b.stage].blocks[b.block]
        modules |= {(b.name, "broadcast"): block.token_module.broadcast}
        modules |= {(b.name, "proj"): block.proj, (b.name, "block"): block}
        if hasattr(block.token_module, "aggregate"):
            modules[b.name, "aggregate"] = block.token_module.aggregate
    seen = recorded(modules, lambda: model(image))
    for b in maps.blocks:
        batch, heads, height, width, n = b.broadcast.shape
        dim = NARROW["embed_dims"][b.stage]
        size = tuple(-(-s // 2 ** (3 + b.stage)) for s in (72, 88))
        assert (batch, heads, (height, width), n) == (2, NARROW["num_heads"][b.stage], size, number)
        np.testing.assert_allclose(b.broadcast.sum(-1), 1, atol=1e-5)
        assert b.broadcast.std() * n > (1e-5 if variant == "msa" else 3e-4)
        (_, source), returned = seen[b.name, "broadcast"]
        module = modules[b.name, "broadcast"]
        values = module.kv(source).chunk(2, -1)[1].unflatten(-1, (heads, -1)).transpose(1, 2)
        again = torch.from_numpy(b.broadcast).flatten(2, 3) @ values
        torch.testing.assert_close(again.transpose(1, 2).flatten(2), returned, rtol=0, atol=1e-5)
        # Rounding: without gradients the CPU computes in pieces.
        np.testing.assert_allclose(b.tokens_read, source.detach(), atol=1e-5)
        np.testing.assert_allclose(b.tokens_out, seen[b.name, "block"][1][1].detach(), atol=1e-5)
        total = seen[b.name, "proj"][1].detach().numpy()
        assert b.local.shape == b.tokens.shape == total.shape == (2, *size, dim)
        np.testing.assert_allclose(b.local + b.tokens + b.bias, total, atol=1e-5)
        assert min(abs(b.local).mean(), abs(b.tokens).mean()) > 1e-3
        if variant == "normal":
            assert b.aggregation is None
            continue
        (cells,), returned = seen[b.name, "aggregate"]
        np.testing.assert_allclose(b.aggregation.sum(-1), 1, atol=1e-5)
        values = modules[b.name, "aggregate"].qkv(cells).chunk(3, -1)[2]
        again = torch.from_numpy(b.aggregation) @ values.unflatten(-1, (heads, -1)).transpose(1, 2)
        torch.testing.assert_close(again.transpose(1, 2).flatten(2), returned, rtol=0, atol=1e-5)
    for i, (stage, last) in enumerate(zip(maps.stages, (0, 1, 1), strict=True)):
        name = f"stages.{i}.blocks.{last}"
        np.testing.assert_allclose(stage, seen[name, "block"][1][0].detach(), atol=1e-5)


def hooks_of(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


def test_nothing_stays_behind():
    """No hooks, the same mode, statistics and outputs bit for bit; also after an error."""
    model = backbone(drop_path_rate=0.3, norm_eval=True).train()
    image = rand(1, 3, 64, 64, dtype=torch.float32)
    modes = {name: m.training for name, m in model.named_modules()}
    state = {k: v.clone() for k, v in model.state_dict().items()}
    hooks = hooks_of(model)
    before = model.eval()(image)
    model.train()
    inspect_tokens(model, image)
    with pytest.raises(RuntimeError):
        inspect_tokens(model, image[:, :2])
    with pytest.raises(InputError, match="block is 2; it must be from 0 to 1"):
        inspect_tokens(model, image, blocks=[(1, 2)])
    few = inspect_tokens(model, image, blocks=[(-1, -1), (1, 0), (2, 1)])
    assert [b.name for b in few.blocks] == ["stages.1.blocks.0", "stages.2.blocks.1"]
    assert len(few.stages) == 3
    assert hooks_of(model) == hooks
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    for out, value in zip(model.eval()(image), before, strict=True):
        assert torch.equal(out, value)


def test_without_tokens():
    with pytest.raises(InputError, match=r"no global tokens \(token_module NoTokens\)"):
        inspect_tokens(backbone(token_module="none"), torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="no DualTokenViT.* but Linear"):
        inspect_tokens(torch.nn.Linear(1, 1), torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match="knows its config"):
        inspect_tokens(backbone(), "photo.jpg")


def test_key_tokens():
    """The most selective token, the next one that is no neighbour, and the most even one."""
    broadcast = np.full((8, 8, 4), 0.25)
    broadcast[1, 1] = (0.9, 0.1, 0, 0)
    broadcast[1, 2] = (0.8, 0.2, 0, 0)
    broadcast[6, 5] = (0.7, 0.3, 0, 0)
    broadcast[0, 0] = 0.26, 0.26, 0.24, 0.24
    assert key_tokens(broadcast)[:2] == [(1, 1), (6, 5)]
    assert broadcast[key_tokens(broadcast)[2]].tolist() == [0.25] * 4


@pytest.mark.parametrize("task", TASKS)
def test_image_goes_through_the_config(task, here):
    """A file, or its array, arrives as the tensor of the model's own forward."""
    model = load_model(Config.fromfile(TASKS[task][0]), write_checkpoint(task))
    folder = write_images("photos")
    maps = mmdualtoken.inspect_tokens(model, f"{folder}/0.png")
    image = cv2.imread(f"{folder}/0.png")
    np.testing.assert_array_equal(inspect_tokens(model, image).inputs, maps.inputs)
    size = dict(detection=(64, 53), segmentation=(64, 64), classification=(64, 64))[task]
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    mean, std = (getattr(model.data_preprocessor, n).flatten() for n in ("mean", "std"))
    if task != "segmentation":  # whose narrow config leaves the channels as they are
        resized = resized[..., ::-1].copy()
    expected = (torch.from_numpy(resized) - mean) / std
    found = torch.from_numpy(maps.inputs)[0, :, : size[0], : size[1]]
    assert F.l1_loss(found, expected.permute(2, 0, 1)) < 0.02
    by_tensor = inspect_tokens(model.backbone, torch.from_numpy(maps.inputs))
    np.testing.assert_array_equal(by_tensor.blocks[-1].broadcast, maps.blocks[-1].broadcast)
    if task == "classification":  # a model from the toolbox's own function knows its config, too
        theirs = get_model(TASKS[task][0], pretrained="model.pth", device="cpu")
        maps_of_theirs = inspect_tokens(theirs, image)
        np.testing.assert_array_equal(maps_of_theirs.inputs, maps.inputs)


def test_tool(here, tool):
    """All figures, or one head's of a block; wrong numbers are refused."""
    write_checkpoint("classification")
    write_images("photos")
    arguments = [TASKS["classification"][0], "model.pth", "photos/0.png", "--out", "out"]
    arguments += ["--dpi", "50"]
    status, printed = tool("visualize_tokens", *arguments)
    assert status == 0 and "stages.2.blocks.0" in printed
    names = {"attention", "heads", "tokens", "stages", "contributions", "grids"}
    assert {p.stem for p in Path("out").glob("*.png")} == names
    for name in names:
        assert cv2.imread(f"out/{name}.png").std() > 5
    with np.load("out/maps.npz") as maps:
        assert maps["broadcast"].shape == (1, 2, 2, 2, 49) and maps["stage1"].shape[:3] == (1, 4, 4)
    one = ["--overwrite", "--head", "1", "--stage", "0", "--block", "-1"]
    assert "stages.0.blocks.0" in tool("visualize_tokens", *arguments, *one)[1]
    for wrong, message in (("--head", "has heads 0 to 1"), ("--stage", "must be from 0 to 2")):
        status, printed = tool("visualize_tokens", *arguments, "--overwrite", wrong, "3")
        assert status == 2 and f"{wrong.strip('-')} is 3" in printed and message in printed


@pytest.mark.parametrize("variant", ["normal", "mlp-3x5"])
def test_figures_of_other_tokens(variant, tmp_path):
    """Tokens without a grid, and a grid that is no square."""
    maps = inspect_tokens(backbone(**VARIANTS[variant]), rand(1, 3, 64, 64, dtype=torch.float32))
    picture = np.zeros((64, 64, 3), np.uint8)
    for name, draw in all_figures(maps, maps.blocks[-1], picture).items():
        draw().savefig(tmp_path / f"{name}.png", dpi=50)
    assert cv2.imread(f"{tmp_path}/tokens.png").std() > 5
