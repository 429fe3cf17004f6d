"""The report's tables: what is in them, what is counted, the budgets that must be met."""

from pathlib import Path

import pytest
from mmengine.config import Config
from report_runs import NARROW, ROOT, narrow

from lab.report import tables
from lab.report.collect import Check, Collector, Options
from lab.report.schema import Budget
from mmdualtoken.errors import InputError
from mmdualtoken.export.complexity import count_macs
from mmdualtoken.export.measure import BOX_ROIS, MASK_ROIS, build_model, forward_once, measure


def all_rows():
    return [row for table in tables.TABLES.values() for row in table.rows if row.config]


def test_every_config_of_the_toolboxes_is_in_a_table_and_there():
    there = {
        f"configs/{path.parent.name}/{path.name}"  # as tools find it, in lab/ too
        for folder in (ROOT / "configs", ROOT / "lab" / "configs")
        for path in folder.glob("mm*/*.py")
        if not path.stem.endswith("demo")
    }
    assert {row.config for row in all_rows()} == there


@pytest.mark.parametrize("number", tables.TABLES)
def test_labels_and_configs_are_unique(number):
    rows = tables.TABLES[number].rows
    assert len({row.label for row in rows}) == len(rows)
    configs = [row.config for row in rows if row.config]
    assert len(set(configs)) == len(configs)


def test_stated_accuracies():
    """The only ones that the paper's text, or LightViT's repository, states."""
    stated = {
        (table.number, row.label): {k: v for k, v in row.stated.items() if k != "macs"}
        for table in tables.TABLES.values()
        for row in table.rows
        if row.stated and table.number <= 5
    }
    assert stated == {
        (2, "DualToken-ViT-T (mix)"): {"top1": "75.4"},
        (2, "DualToken-ViT-S (mix)"): {"top1": "79.4"},
        (2, "DualToken-ViT-S (mlp)"): {"top1": "79.5"},
        (2, "LightViT-T"): {"top1": "78.7"},
        (3, "DualToken-ViT-S, 1x"): {"box_ap": "41.1", "mask_ap": "38.1"},
        (3, "LightViT-T, 1x"): {"box_ap": "37.8", "mask_ap": "35.9"},
    }


@pytest.mark.parametrize("scope", NARROW)
def test_measure_counts_the_same_on_both_devices(scope):
    cfg = narrow(scope)
    model = build_model(cfg)
    on_cpu = count_macs(forward_once, model, scope, (64, 96))
    measured = measure(cfg, (64, 96))
    assert measured.macs == on_cpu > 0
    assert measured.params == sum(p.numel() for p in model.parameters())


def test_roi_heads_count_for_1000_boxes_and_100_masks():
    cfg = narrow("mmdet")
    model = build_model(cfg)
    heads = model.roi_head
    box = count_macs(heads.bbox_head, next(model.parameters()).new_zeros(BOX_ROIS, 16, 7, 7))
    mask = count_macs(heads.mask_head, next(model.parameters()).new_zeros(MASK_ROIS, 16, 14, 14))
    assert (BOX_ROIS, MASK_ROIS) == (1000, 100)
    whole = measure(cfg, (64, 64)).macs
    cfg.model.roi_head.mask_head = None
    assert whole - measure(cfg, (64, 64)).macs == mask
    assert whole > box + mask


def test_auxiliary_head_counts_as_parameters_only():
    cfg = narrow("mmseg")
    plain = measure(cfg, (64, 64))
    cfg.model.auxiliary_head = dict(cfg.model.decode_head, in_index=1)
    with_head = measure(cfg, (64, 64))
    assert with_head.macs == plain.macs
    assert with_head.params > plain.params


def test_measure_refuses_other_toolboxes():
    with pytest.raises(InputError, match="mmrotate"):
        measure(Config(dict(default_scope="mmrotate", model=dict())))


@pytest.mark.parametrize(
    "figure, about, counted, ok",
    [
        ("100", False, 100.99, True),
        ("100", False, 101.01, False),
        ("100", False, 98.99, False),
        ("1.008", False, 1.0180, True),
        ("1.008", False, 1.0182, False),
        ("69", True, 69 - 0.5 - 0.68, True),  # 1 % of 68.5, which rounds to 69
        ("69", True, 69 - 0.5 - 0.70, False),
        ("69", False, 69 - 0.5 - 0.68, False),
    ],
)
def test_tolerance_of_a_budget(figure, about, counted, ok):
    assert Check(Budget("macs", figure, "derived", about), counted).ok is ok


@pytest.fixture(scope="module")
def real_report():
    """All tables, counted once."""
    collector = Collector(Options(Path("no/such/folder")))
    return {number: collector(table) for number, table in tables.TABLES.items()}


@pytest.mark.slow
def test_all_budgets_are_met(real_report):
    assert [line for report in real_report.values() for line in report.failed] == []
    assert sum(len(row.checks) for r in real_report.values() for row in r.rows) > 30


@pytest.mark.slow
def test_differences_and_their_explanations(real_report):
    """Which of the stated differences ours round to; the remarks rest on these."""
    agree = {
        (number, delta.delta.label): {
            name: delta.agrees(name) for name in delta.ours if delta.agrees(name) is not None
        }
        for number in (6, 7, 8, 9)
        for delta in real_report[number].deltas
    }
    assert agree == {
        (6, "position-aware minus normal"): dict(params=False, macs=False),
        (6, "position-aware minus attention fusion"): {},
        (7, "7x7 minus 0"): dict(params=True, macs=False),
        (8, "Conv Encoder minus window attention"): {},
        (9, "step-wise minus one step"): dict(params=True, macs=False),
    }
    for report in real_report.values():
        assert all(delta.delta.why for delta in report.deltas if delta.differs)
    fusion = real_report[6].deltas[1].ours
    assert fusion["params"] == pytest.approx(-1.1, abs=0.11)
    assert round(fusion["macs"], 2) == 0.06
