"""What tools write does not replace what is there: one rule and one text for all of them."""

from pathlib import Path

import pytest
from tasks import TASKS

from mmdualtoken.errors import InputError
from mmdualtoken.files import check_new_file, check_new_folder

CONFIG = TASKS["classification"][0]


@pytest.mark.parametrize("overwrite", [None, False, True])
def test_folders(overwrite, tmp_path):
    """A new or empty one is fine, one with files only with --overwrite, a file never."""
    out = tmp_path / "out"
    assert check_new_folder(out, overwrite) == out and not out.exists()
    out.mkdir()
    assert check_new_folder(str(out), overwrite) == out
    (out / "mine").touch()
    if overwrite:
        assert check_new_folder(out, True) == out
    else:
        with pytest.raises(InputError, match=f"--out {out} has files in it") as caught:
            check_new_folder(out, overwrite)
        assert ("--overwrite" in str(caught.value)) == (overwrite is False)
    with pytest.raises(InputError, match="is a file"):
        check_new_folder(out / "mine", overwrite)


def test_files(tmp_path):
    file = tmp_path / "deep" / "a.json"
    assert check_new_file(file, "--json") == file
    file.touch()
    with pytest.raises(InputError, match=r"^--json .*a\.json exists already"):
        check_new_file(file, "--json")
    with pytest.raises(InputError, match=r"^--json .*b\.json: its folder cannot be made"):
        check_new_file(file / "b.json", "--json")


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("browse_dataset", ["--out", "data"]),
        ("visualize_tokens", ["model.pth", "image.png", "--out", "data"]),
        ("get_flops", ["--json", "mine.json"]),
    ],
)
def test_tools_keep_what_is_there(name, arguments, project, tool):
    Path("mine.json").write_text("mine")
    status, printed = tool(name, CONFIG, *arguments)
    assert status == 2 and " ".join(arguments[-2:]) in printed and "Traceback" not in printed
    assert Path("mine.json").read_text() == "mine"
