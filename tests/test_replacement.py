"""A run's files take the place of an older run's, whenever the process is killed meanwhile."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from clip_adapt.adapted import delta
from clip_adapt.errors import InputError
from clip_adapt.objectives.classify import Classify
from clip_adapt.runs import record
from clip_adapt.runs import run as runs
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.output import replacement
from clip_adapt.runs.output.finished import is_finished, repair_folder
from clip_adapt.runs.pages import write_pages
from clip_adapt.system.clock import Clock
from clip_adapt.system.run_files import FINISHED, UNFINISHED

MINE = {"notes.txt": "mine", "adapter/mine.txt": "mine too", "pictures/1.txt": "and mine"}
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod")


class Killed(BaseException):
    """In place of SIGKILL: from there on nothing is changed, by no clean-up either."""


class Killer:
    """Kills before one of the changes of files below a folder."""

    def __init__(self):
        self.top, self.left = None, 0

    def hook(self, event, args):
        """Count the changes that an audit event tells of."""
        if self.top is None or not args or not self._is_below(args[0]):
            return
        if event in CHANGES or (event == "open" and self._writes(*args[1:])):
            self.left -= 1
            if self.left < 0:
                raise Killed

    def _is_below(self, path):
        return isinstance(path, str | Path) and str(Path(path).absolute()).startswith(self.top)

    @staticmethod
    def _writes(mode, flags):
        return any(letter in (mode or "") for letter in "wax") or bool(flags & 3)


KILLER = Killer()
sys.addaudithook(KILLER.hook)  # it cannot be taken away, and does nothing but in these tests


@contextmanager
def killed(top, left):
    """Kill the block before its change number ``left`` (from 0); yield a list, empty unless so."""
    was = []
    KILLER.top, KILLER.left = str(Path(top).absolute()), left
    try:
        yield was
    except Killed:
        was.append(True)
    finally:
        KILLER.top = None


def read_delta(path):
    """What stands in a delta; safetensors writes its metadata in any order."""
    header, tensors = delta.read(path)
    return header, {name: tensor.tolist() for name, tensor in tensors.items()}


def look(folder):
    """The bytes of a run's files by name, without the user's own."""
    found = {p.relative_to(folder).as_posix(): p for p in Path(folder).rglob("*") if p.is_file()}
    hidden = (UNFINISHED, FINISHED, ".lock")
    return {
        name: read_delta(path) if path.name == delta.FILE else path.read_bytes()
        for name, path in found.items()
        if name not in MINE and not name.startswith(hidden)
    }


def judge(folder, old, new):
    """What stands there, after it was said that it is no mixture: the old run, the new, or less."""
    there = look(folder)
    if there == old:
        return "old"
    if there == new:
        return "new"
    assert "metrics.json" not in there
    for whole in (old, new):
        if there.items() <= whole.items():
            return "less"
    raise AssertionError(f"old and new stand together: {sorted(there)}")


@pytest.fixture
def finished(train_tiny, animals):
    """A folder with a finished run, an interrupted training, and files of the user's."""
    assert train_tiny(animals, "tensorboard=true")[0] == 0
    for name, text in MINE.items():
        (Path("out") / name).parent.mkdir(exist_ok=True)
        (Path("out") / name).write_text(text)
    return Path("out")


def require_mine(folder):
    assert all((folder / name).read_text() == text for name, text in MINE.items())


def test_killed_before_any_change_of_its_end_a_run_is_whole(
    finished, train_tiny, animals, monkeypatch, tmp_path
):
    seen, write = [], record.write_run
    monkeypatch.setattr(
        Clock, "read", lambda self: dict.fromkeys(("features", "fit", "total"), 1.0)
    )
    monkeypatch.setattr(record, "measure_peak_memory", lambda device: 1)

    def write_all(*args):
        """Write the run's end again and again, killed a change later each time."""
        (finished / "checkpoint").mkdir()
        (finished / "checkpoint/checkpoint.safetensors").write_text("of this run")
        old, before = look(finished), shutil.copytree(finished, tmp_path / "before")
        (before / ".lock").unlink()
        made = write(*args)  # this is what it comes to
        new, number = look(finished), 0
        while True:
            shutil.rmtree(finished)
            shutil.copytree(before, finished)
            assert judge(finished, old, new) == "old"
            with killed(finished, number) as was:
                write(*args)
            found = judge(finished, old, new)
            ended = (finished / FINISHED).is_dir()
            require_mine(finished)
            # The next start, killed as well, and then the one after that.
            with killed(finished, number % 7):
                repair_folder(finished)
            assert judge(finished, old, new) != "less" or (finished / FINISHED).is_dir()
            assert is_finished(finished)
            assert judge(finished, old, new) == ("new" if ended or found == "new" else "old")
            seen.append(found)
            if not was:
                return made
            number += 1

    monkeypatch.setattr(runs, "write_run", write_all)
    code, _, err = train_tiny(animals, "lr=0.01", "tensorboard=true", "report=false")
    assert code == 0, err
    assert seen.index("less") == seen.count("old") > 5 and seen.count("less") > 10
    assert seen[-1] == "new" and seen == sorted(seen, key=["old", "less", "new"].index)
    require_mine(finished)
    assert not [p for p in finished.rglob("*") if p.name.startswith(".")]
    assert not (finished / "checkpoint").exists() and not (finished / "report.html").exists()


def test_a_run_that_is_refused_at_its_end_leaves_the_old_one_whole(
    finished, train_tiny, animals, monkeypatch
):
    old = look(finished)

    def refuses(*args):
        raise InputError("a test image is gone")

    monkeypatch.setattr(Classify, "finish", refuses)
    code, _, err = train_tiny(animals, "lr=0.01", "tensorboard=true")
    assert code == 2 and err.endswith("error: a test image is gone\n")
    assert look(finished) == old
    require_mine(finished)
    assert not [p for p in finished.rglob("*") if p.name.startswith(".")]


def test_what_is_known_before_training_is_refused_before_it(
    finished, train_tiny, animals, monkeypatch
):
    old = look(finished)
    monkeypatch.setattr(Classify, "solve", None)
    monkeypatch.setattr(Config, "to_yaml", lambda self: "a name that is no text: \udcff")
    code, _, err = train_tiny(animals)
    assert code == 2
    assert "error: 'a name that is no text: \\udcff' is no text that UTF-8 can hold" in err
    assert look(finished) == old


def test_a_folder_in_the_place_of_a_file_is_refused_before_training(
    train_tiny, animals, monkeypatch
):
    monkeypatch.setattr(Classify, "solve", None)
    Path("out/config.yaml/mine").mkdir(parents=True)
    code, _, err = train_tiny(animals)
    assert code == 2 and "error: out/config.yaml is a folder and would be a file" in err
    assert [p.name for p in Path("out").rglob("*")] == ["config.yaml", "mine"]


def leave_at_its_end(folder):
    """Leave a folder as it is when a run was killed while its files came in."""
    names = look(folder)
    (folder / FINISHED / "adapter").mkdir(parents=True)
    for name in names:
        (folder / name).replace(folder / FINISHED / name)
    assert look(folder) == {}


def test_a_report_finishes_what_a_killed_run_has_left(train_tiny, animals):
    assert train_tiny(animals)[0] == 0
    whole = look("out")
    leave_at_its_end(Path("out"))
    assert write_pages(".", all=False).read_text(encoding="utf-8").count("out/report.html") == 1
    assert look("out") == whole


def test_an_index_lists_no_run_that_is_being_written(train_tiny, animals):
    assert train_tiny(animals)[0] == 0
    shutil.copytree("out", "more/out/" + UNFINISHED)
    shutil.copytree("out", "more/whole")
    page = write_pages("more").read_text(encoding="utf-8")
    assert "whole/report.html" in page and UNFINISHED not in page


def test_a_list_of_old_files_names_none_outside(tmp_path):
    whole = tmp_path / "run" / FINISHED
    whole.mkdir(parents=True)
    (tmp_path / "precious.txt").write_text("mine")
    listed = ["../precious.txt", str(tmp_path / "precious.txt"), "metrics.json"]
    (whole / replacement.OLD).write_text(json.dumps(listed))
    repair_folder(tmp_path / "run")
    assert (tmp_path / "precious.txt").read_text() == "mine"
    with pytest.raises(InputError, match="names files of other folders"):
        replacement.begin_run(tmp_path / "run")


def test_a_folder_that_cannot_be_renamed_is_no_matter(train_tiny, animals, monkeypatch):
    Path("here").mkdir()
    monkeypatch.chdir("here")
    Path("mine.txt").write_text("mine")
    code, _, err = train_tiny(animals, "output=.", f"model={Path('..') / 'tiny.yaml'}")
    assert code == 0, err
    assert Path("adapter", delta.FILE).is_file() and Path("metrics.json").is_file()
    assert Path("mine.txt").read_text() == "mine"


@pytest.fixture
def foreign(tmp_path):
    """A run's folder of somebody else's, as if killed at its end, beside a folder of the user's."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    whole = tmp_path / "run" / FINISHED
    (whole / "adapter").mkdir(parents=True)
    (whole / "adapter" / ".bashrc").write_text("theirs")
    return whole


@pytest.mark.parametrize("link", ["run/.finished", "run/adapter", "run/notes"])
def test_no_link_of_a_folder_moves_deletes_or_writes_files_elsewhere(foreign, tmp_path, link):
    (foreign / replacement.OLD).write_text(json.dumps(["notes/thesis.txt", "adapter/thesis.txt"]))
    if (tmp_path / link).is_dir():
        shutil.rmtree(tmp_path / link)
    (tmp_path / link).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="is a link that leads elsewhere"):
        replacement.begin_run(tmp_path / "run")
    repair_folder(tmp_path / "run")  # and what reports and sweeps do says nothing of it
    assert look(tmp_path / "mine") == {"thesis.txt": b"mine"}


def test_a_folder_that_is_reached_by_a_link_is_a_folder(foreign, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    replacement.begin_run(tmp_path / "link")
    assert (tmp_path / "run" / "adapter" / ".bashrc").read_text() == "theirs"


@pytest.mark.parametrize("listed", ["", "{", "5", "[5]", '["a\\u0000"]', "[" * 100_000])
def test_a_damaged_list_of_old_files_is_refused(foreign, listed):
    (foreign / replacement.OLD).write_text(listed)
    with pytest.raises(InputError, match=replacement.OLD):
        replacement.begin_run(foreign.parent)
