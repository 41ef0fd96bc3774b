import pytest

from meft_runner.errors import UserError
from meft_runner.reports.replacing import MANIFEST, replacing

NAMES = ["a.md", "b.svg"]


def write(folder, text, names=NAMES, overwrite=False):
    with replacing(folder, names, overwrite) as earlier:
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text(text)
    return earlier


def interrupted(folder, overwrite=False):
    with replacing(folder, NAMES, overwrite):
        (folder / "a.md").write_text("half")
        raise KeyboardInterrupt


def refused(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UserError) as raised:
        write(folder, "refused")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return str(raised.value)


def test_own_files_are_replaced(tmp_path):
    assert write(tmp_path / "new", "1") == write(tmp_path / "new", "2") == []
    assert write(tmp_path / "new", "3", ["a.md"]) == ["b.svg"]
    assert (tmp_path / "new" / "a.md").read_text() == "3"


def test_a_file_that_was_edited_since_is_the_users(tmp_path):
    write(tmp_path, "1")
    (tmp_path / "a.md").write_text("1, and what I think of it")
    assert "would replace a.md (1 in all), which" in refused(tmp_path)
    write(tmp_path, "2", overwrite=True)
    write(tmp_path, "3")


def test_what_is_no_file_is_never_its_own(tmp_path):
    (tmp_path / "a.md").mkdir()
    (tmp_path / "b.svg").symlink_to(tmp_path / "gone")
    assert "would replace a.md, b.svg (2 in all), which" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", '{"a.md": 1}', "\udcff", "[" * 100_000])
def test_a_damaged_list_lets_nothing_be_replaced(content, tmp_path):
    write(tmp_path, "1")
    (tmp_path / MANIFEST).write_bytes(content.encode(errors="surrogateescape"))
    assert "a.md, b.svg" in refused(tmp_path)


def test_what_was_written_before_an_error_is_its_own(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path)
    write(tmp_path, "1")


def test_an_error_makes_no_file_of_the_user_its_own(tmp_path):
    (tmp_path / "b.svg").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, overwrite=True)
    assert "would replace b.svg (1 in all), which" in refused(tmp_path)
