"""What tools write does not replace what is there: one rule and one text for all of them."""

from pathlib import Path

import pytest
from tasks import TASKS

from mmdualtoken.errors import InputError
from mmdualtoken.files import check_new_file, check_new_folder

CONFIG = TASKS["classification"][0]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("overwrite", [None, False, True])
def test_new_and_empty_folders(overwrite, out):
    assert check_new_folder(out, overwrite) == out
    assert not out.exists()
    out.mkdir()
    assert check_new_folder(str(out), overwrite) == out


def test_folder_with_files(out):
    out.mkdir()
    (out / "mine").touch()
    text = f"--out {out} has files in it. Name a folder that is new or empty"
    with pytest.raises(InputError) as caught:
        check_new_folder(out)
    assert str(caught.value) == f"{text}."
    with pytest.raises(InputError) as caught:
        check_new_folder(out, False)
    assert str(caught.value) == f"{text}, or write into this one with --overwrite."
    assert check_new_folder(out, True) == out


@pytest.mark.parametrize("overwrite", [None, False, True])
def test_file_in_the_folders_place(overwrite, out):
    out.touch()
    with pytest.raises(InputError, match=r"is a file; name a folder\.$"):
        check_new_folder(out, overwrite)


def test_files(out):
    assert check_new_file(out / "deep" / "a.json", "--json") == out / "deep" / "a.json"
    (out / "deep" / "a.json").touch()
    with pytest.raises(InputError, match=r"^--json .*a\.json exists already\. Name another"):
        check_new_file(out / "deep" / "a.json", "--json")
    with pytest.raises(InputError, match=r"^--json .*b\.json: its folder cannot be made"):
        check_new_file(out / "deep" / "a.json" / "b.json", "--json")


TOOLS = {
    "browse_dataset": [CONFIG, "--out", "data"],
    "visualize_tokens": [CONFIG, "model.pth", "image.png", "--out", "data"],
}


@pytest.mark.parametrize("name", TOOLS)
def test_tools_refuse_a_folder_with_files(name, project, tool):
    status, printed = tool(name, *TOOLS[name])
    assert status == 2
    assert "--out data has files in it. Name a folder that is new or empty, or write" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["get_flops", "check_data"])
def test_tools_refuse_a_file_that_is_there(name, project, tool):
    Path("mine.json").write_text("mine")
    status, printed = tool(name, CONFIG, "--json", "mine.json")
    assert status == 2 and "--json mine.json exists already." in printed
    assert Path("mine.json").read_text() == "mine"
