"""Checkpoints written once load strictly and give the same outputs, for ever; and the language."""

import ast
import json

import make_fixtures
import pytest
import torch
from helpers import VARIANTS
from make_fixtures import FOLDER, class_named, load, outputs_of
from tasks import ROOT

from mmdualtoken.environment.versions import END_PYTHON, MIN_PYTHON, REQUIREMENTS

NO_MMDET = "DualTokenFPN builds on mmdet's FPN, which a classification-only installation lacks"
FIXTURES = sorted(FOLDER.glob("*.npz"))


def restored(file):
    """The module of a fixture with its weights, its inputs and its outputs."""
    kind, settings, state, inputs, outputs = load(file)
    if kind == "DualTokenFPN":
        pytest.importorskip("mmdet", reason=NO_MMDET)
    module = class_named(kind)(**settings)
    module.load_state_dict(state, strict=True)
    return module.eval(), inputs, outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("file", FIXTURES, ids=lambda f: f.stem)
def test_checkpoint_gives_its_outputs(file, dtype):
    module, inputs, expected = restored(file)
    outputs = outputs_of(module.to(dtype), [x.to(dtype) for x in inputs])
    tol = {torch.float32: 1e-5, torch.float64: 1e-9}[dtype]
    assert len(outputs) == len(expected)
    for out, value in zip(outputs, expected, strict=True):
        assert out.dtype == dtype
        torch.testing.assert_close(out.double(), value, rtol=tol, atol=tol)


@pytest.mark.parametrize("file", FIXTURES, ids=lambda f: f.stem)
def test_order_of_the_names(file):
    """Strict loading, in the test above, has compared names and shapes."""
    module, _, _ = restored(file)
    assert list(module.state_dict()) == list(load(file)[2])


# In window-onestep-msa the tokens all but agree, so that its queries hardly matter; other
# checkpoints hold the same tensors.
@pytest.mark.slow  # of the files, which do not change
@pytest.mark.parametrize(
    "file", [f for f in FIXTURES if f.stem != "window-onestep-msa"], ids=lambda f: f.stem
)
def test_the_outputs_tell_of_every_tensor(file):
    """A fixture in which a tensor could change unseen would promise less than it seems to."""
    module, inputs, expected = restored(file)
    module, inputs = module.double(), [x.double() for x in inputs]
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        kept = value.clone()
        value.add_(torch.linspace(0.5, 1, value.numel()).view(value.shape))
        outputs = outputs_of(module, inputs)
        value.copy_(kept)
        change = max((o - e).abs().max() for o, e in zip(outputs, expected, strict=True))
        assert change > 1e-5, key  # what the comparison in fp32 allows


def test_every_variant_has_its_checkpoint():
    assert {f.stem for f in FIXTURES} >= set(make_fixtures.all_settings())
    assert set(make_fixtures.FULL_WIDTH) < set(VARIANTS)
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) < 600_000


@pytest.mark.parametrize("name", make_fixtures.FULL_WIDTH)
def test_names_of_the_archs_of_full_width(name):
    frozen = json.loads(make_fixtures.NAMES_FILE.read_text(encoding="utf-8"))
    now = make_fixtures.names_of_full_width()
    assert list(frozen) == list(now)
    assert list(frozen[name].items()) == list(now[name].items())
    assert len(frozen[name]) > 400


def test_missing_fixtures_are_written_and_no_other(tmp_path):
    pytest.importorskip("mmdet", reason=NO_MMDET)
    (tmp_path / "mix.npz").write_bytes(b"what was there")
    (tmp_path / "names.json").write_text("what was there")
    written = make_fixtures.write_missing(tmp_path)
    assert {f.stem for f in written} == set(make_fixtures.all_settings()) - {"mix"}
    assert (tmp_path / "mix.npz").read_bytes() == b"what was there"
    assert (tmp_path / "names.json").read_text() == "what was there"
    assert make_fixtures.write_missing(tmp_path) == []
    for name in ("mlp.npz", "window.npz", "fpn.npz"):  # what is written can be read
        _, settings, state, inputs, outputs = load(tmp_path / name)
        _, old_settings, old_state, old_inputs, old_outputs = load(FOLDER / name)
        assert settings == old_settings
        assert all(torch.equal(v, old_state[n]) for n, v in state.items())
        for new, old in zip([*inputs, *outputs], [*old_inputs, *old_outputs], strict=True):
            torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9)


def python_files():
    folders = ("mmdualtoken", "tools", "configs", "benchmarks", "tests")
    return [ROOT / "setup.py", *(f for folder in folders for f in (ROOT / folder).rglob("*.py"))]


def test_syntax_is_that_of_the_lowest_python():
    files = python_files()
    assert len(files) > 100
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=MIN_PYTHON)


def test_the_declared_versions_agree():
    """setup.py, the check at import and the linter's target say the same."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    low, end = (".".join(map(str, v)) for v in (MIN_PYTHON, END_PYTHON))
    assert f'python_requires=">={low},<{end}"' in setup
    assert f'target-version = "py{low.replace(".", "")}"' in (ROOT / "pyproject.toml").read_text()
    torch_range = next(r.ranges["torch"] for r in REQUIREMENTS if r.name == "torch")
    assert torch_range == ">=2.1"
