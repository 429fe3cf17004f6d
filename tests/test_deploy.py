"""switch_to_deploy(): the same outputs from fewer operators, and what is refused after it."""

from copy import deepcopy

import pytest
import torch
from helpers import VARIANTS, build, distance, rand, randomise
from mmcv.cnn import ConvModule
from mmengine.config import Config
from tasks import TASKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.prune import l1_unstructured

from mmdualtoken.export.measure import build_model
from mmdualtoken.models import switch_to_deploy
from mmdualtoken.models.blocks import ConvEncoder
from mmdualtoken.models.tokens import PositionAwareTokens, TokenMLP

NARROW_ONLY = [name for name in VARIANTS if not name.startswith(("tiny", "small"))]


def both(model, images):
    """Outputs before and after the switch."""
    deployed = deepcopy(model)
    deployed.switch_to_deploy()
    with torch.no_grad():
        return model(images), deployed(images)


@pytest.mark.parametrize("name", NARROW_ONLY)
def test_outputs_stay_the_same(name):
    for norm, size in ((dict(), (37, 91)), (dict(out_norm_cfg=dict(type="BN")), (64, 64))):
        model = randomise(build(**{**VARIANTS[name], **norm}).double().eval())
        plain, deployed = both(model, rand(2, 3, *size))
        assert distance(deployed, plain) < 1e-10
    plain, deployed = both(model.float(), rand(2, 3, 1, 17, dtype=torch.float32))
    assert distance(deployed, plain) < 1e-5


def test_what_is_folded_is_gone():
    """At once, and a second time nothing changes."""
    model = randomise(build(token_mlp="mix", local_encoder="window").eval())
    switch_to_deploy(model)
    assert not any(isinstance(m, _BatchNorm) for m in model.modules())
    names = {name.rpartition(".")[2] for name in model.state_dict()}
    assert "gamma" not in names
    assert not any(p.requires_grad for p in model.parameters())
    state = deepcopy(model.state_dict())
    model.switch_to_deploy()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_training_and_loading_are_refused():
    model = build()
    checkpoint = build().state_dict()
    model.switch_to_deploy()
    assert not model.training
    assert not model.eval().training
    with pytest.raises(RuntimeError, match="cannot be trained; build a new model"):
        model.train()
    assert not model.training
    with pytest.raises(RuntimeError, match="cannot be loaded into; build a new model"):
        model.load_state_dict(checkpoint, strict=False)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        build().load_state_dict(model.state_dict())


def test_a_batch_norm_without_statistics_stays():
    norm = dict(type="BN", track_running_stats=False)
    model = build(out_norm_cfg=norm).double().eval()
    plain, deployed = both(model, rand(2, 3, 64, 64))
    assert distance(deployed, plain) < 1e-10


class OwnEncoder(ConvEncoder):
    """Uses gamma in another way, and has a switch, by the toolboxes' convention."""

    switched = False

    def forward(self, x):
        return super().forward(x) * self.gamma

    def switch_to_deploy(self):
        self.switched = True


class OwnTokens(PositionAwareTokens):
    """Reads something else than its own aggregation."""

    def gather(self, x_local):
        return 2 * super().gather(x_local)


class OwnMLP(TokenMLP):
    """Does not end with its last Linear."""

    def forward(self, tokens):
        return super().forward(tokens).tanh()


@pytest.mark.parametrize(
    "own",
    [dict(local_encoder=OwnEncoder), dict(token_module=OwnTokens), dict(token_mlp=OwnMLP)],
    ids=["encoder", "tokens", "mlp"],
)
def test_classes_of_the_users_own_stay_as_they_are(own):
    model = randomise(build(**own).double().eval())
    images = rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = model(images)
        model.switch_to_deploy()
        assert distance(model(images), plain) < 1e-10
    assert all(m.switched for m in model.modules() if isinstance(m, OwnEncoder))


@pytest.mark.parametrize("name", ["pwconv2", "fc2", "channel_mix", "qkv"])
def test_linears_that_are_more_than_their_weights_are_not_scaled(name):
    """Pruned ones compute the weight at each call: a factor put into it would be lost."""
    model = randomise(build(token_mlp="mlp" if name == "fc2" else "mix").double().eval())
    found = [m for n, m in model.stages.named_modules() if n.endswith(f".{name}")]
    for linear in found:
        l1_unstructured(linear, "weight", amount=0.3)
    images = rand(1, 3, 64, 64)
    with torch.no_grad():
        plain = model(images)
        model.switch_to_deploy()
        assert found and distance(model(images), plain) < 1e-10


@pytest.mark.parametrize("task", TASKS)
def test_whole_models_stay_the_same(task):
    cfg = Config.fromfile(TASKS[task][0])
    if task == "detection":
        cfg.model.neck.norm_cfg = dict(type="BN")
    model = randomise(build_model(cfg).double())
    images = rand(1, 3, 64, 96)
    deployed = switch_to_deploy(deepcopy(model))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in (deployed.backbone.stem.modules()))
    outs = []
    for one in (model, deployed):
        with torch.no_grad():
            out = one.extract_feat(images) if task == "detection" else one(images, mode="tensor")
        outs.append((out,) if torch.is_tensor(out) else tuple(out))
    assert distance(*reversed(outs)) < 1e-10
    with pytest.raises(RuntimeError, match="cannot be trained"):
        deployed.train()


def test_only_norms_that_directly_follow_a_plain_convolution_are_folded():
    """Once where heads share it (RTMDet's levels); not where a hook computes the weight."""
    after = ("conv", "norm", "act")
    first, second, before, pruned = (
        ConvModule(4, 4, 3, padding=1, norm_cfg=dict(type="BN"), order=order)
        for order in (after, after, ("norm", "conv", "act"), after)
    )
    second.conv = first.conv
    model = randomise(nn.Sequential(first, second, before, pruned).double().eval())
    l1_unstructured(pruned.conv, "weight", amount=0.3)
    images = rand(1, 4, 9, 9)
    with torch.no_grad():
        plain = model(images)
        assert distance((switch_to_deploy(model)(images),), (plain,)) < 1e-10
    kept = [isinstance(module.norm, nn.BatchNorm2d) for module in model]
    assert kept == [False, False, True, True]
