"""The report's tables: their data, the counts, the budgets that must be met."""

import re

import pytest
from report_runs import LATE, NARROW, ROOT, narrow, write_log

from lab.report.jobs import Options
from lab.report.paper import BOX, MASK, TABLES, Row, Table
from lab.report.tables import check_budget, collect, row_grid

#: Models that the paper does not have: light heads, the demo, pretraining.
NOT_OF_THE_PAPER = re.compile("rtmdet|segformer|deeplabv3plus|demo|photos393|finetune")


def test_every_config_of_the_papers_models_is_in_a_table_and_there():
    there = {
        f"configs/{path.parent.name}/{path.name}"  # as tools find it, in lab/ too
        for folder in (ROOT / "configs", ROOT / "lab" / "configs")
        for path in folder.glob("mm*/*.py")
        if not NOT_OF_THE_PAPER.search(path.stem)
    }
    rows = [row for table in TABLES.values() for row in table.rows]
    assert {row.config for row in rows if row.config} == there
    pretrained = {row.pretrained for row in rows if row.pretrained}
    assert pretrained == {f"configs/mmpretrain/dualtoken_{x}_mix_in1k.py" for x in "st"}
    for row in rows:  # the paper starts only its own backbones from ImageNet
        assert not row.pretrained or row.pretrained[-15:-13] in row.config


@pytest.mark.parametrize(
    "figure, counted, ok",
    [
        ("100", 100.99, True),
        ("100", 101.01, False),
        ("100", 98.99, False),
        ("1.008", 1.0180, True),
        ("1.008", 1.0182, False),
        ("about 69", 69 - 0.5 - 0.68, True),  # 1 % of 68.5, which rounds to 69
        ("about 69", 69 - 0.5 - 0.70, False),
        ("69", 69 - 0.5 - 0.68, False),
    ],
)
def test_tolerance_of_a_budget(figure, counted, ok):
    assert check_budget(figure, counted)[1] is ok


def test_accuracies_that_coco_does_not_define(tmp_path):
    """-1 where there is nothing to find, no figure where nothing was detected."""
    lines = [dict(loss=1.0, iter=2, step=2), {"coco/bbox_mAP": -1, "step": 0}]
    write_log(tmp_path / "maskrcnn_narrow" / LATE, narrow("mmdet"), lines)
    table = Table(3, "t", "s", (BOX, MASK), (Row("narrow", NARROW["mmdet"]),))
    grid = row_grid(collect(table, Options(tmp_path)))
    assert grid["Measured here"][0] == ["box AP undefined", "mask AP without result"]


@pytest.fixture(scope="module")
def real_report(tmp_path_factory):
    """All tables, counted once."""
    options = Options(tmp_path_factory.mktemp("empty"))
    return {number: collect(table, options) for number, table in TABLES.items()}


@pytest.mark.slow
def test_all_budgets_are_met(real_report):
    assert [line for report in real_report.values() for line in report.failed] == []
    assert sum(len(report.checks) for report in real_report.values()) > 30


@pytest.mark.slow
def test_differences_and_their_explanations(real_report):
    """Which of the stated differences ours round to; the remarks rest on these."""
    agree = {}
    for number in (6, 7, 8, 9):
        for label, lines in real_report[number].deltas.groupby("label"):
            known = lines[lines.agrees.notna()]
            agree[number, label] = dict(zip(known.name, known.agrees, strict=True))
            assert lines.why.all() or False not in set(known.agrees)
    assert agree == {
        (6, "position-aware minus normal"): dict(params=False, macs=False),
        (6, "position-aware minus attention fusion"): {},
        (7, "7x7 minus 0"): dict(params=True, macs=False),
        (8, "Conv Encoder minus window attention"): {},
        (9, "step-wise minus one step"): dict(params=True, macs=False),
    }
    deltas = real_report[6].deltas.set_index(["label", "name"]).ours
    fusion = deltas["position-aware minus attention fusion"]
    assert fusion["params"] == pytest.approx(-1.1, abs=0.11)
    assert round(fusion["macs"], 2) == 0.06
