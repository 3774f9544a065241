"""What a run in Python says, and to whom: a script without logging, one with it, a notebook."""

import inspect
import logging
import os
import subprocess
import sys
import types

import pytest

import clip_adapt
from clip_adapt.evaluation import resampling
from clip_adapt.system.launch import spinning
from clip_adapt.system.text import messages, progress

SAID = "a message for a person"


@pytest.fixture
def bare(monkeypatch):
    """A function: logging as in a script that has not configured it; pytest does, for a test."""

    root, ours = logging.getLogger(), logging.getLogger("clip_adapt")
    levels = {root: root.level, ours: ours.level}

    def make():
        monkeypatch.setattr(root, "handlers", [])
        root.setLevel(logging.WARNING)  # not by monkeypatch: logging remembers what was enabled
        ours.setLevel(logging.NOTSET)

    yield make
    for logger, level in levels.items():
        logger.setLevel(level)
    assert not ours.handlers


def say():
    logging.getLogger("clip_adapt.runs.anything").info(SAID)
    logging.getLogger("clip_adapt.runs.anything").warning("careful \x1b[2J")


def test_a_script_without_logging_sees_what_is_said(bare, capsys):
    bare()
    with messages.show_messages():
        say()
    assert capsys.readouterr().err == f"{SAID}\ncareful \\x1b[2J\n"


def test_a_program_with_logging_decides_itself(bare, capsys):
    bare()
    heard = []
    own = logging.Handler()
    own.emit = lambda record: heard.append(record.getMessage())
    logging.getLogger().addHandler(own)
    with messages.show_messages():
        say()
    assert heard == ["careful \x1b[2J"]  # its level is WARNING
    with messages.show_messages(verbose=True):
        say()
    assert heard[1:] == [SAID, "careful \x1b[2J"]
    assert capsys.readouterr().err == ""


def test_other_libraries_do_not_configure_logging_meanwhile(bare, tiny_card, capsys):
    bare()
    with messages.show_messages():
        logging.warning("of a module without a logger")
        say()
    clip_adapt.Backbone.from_card(tiny_card)  # open_clip says something in this way
    assert logging.getLogger().handlers == []
    assert capsys.readouterr().err.count(SAID) == 1


def test_nothing_is_said_or_shown_when_told_so(bare, capsys):
    bare()
    with messages.show_messages(verbose=False):
        say()
        assert progress.make_bar(3, "training").disable
    assert capsys.readouterr().err == ""
    assert not messages.is_quiet()


def test_a_notebook_shows_progress_and_a_file_does_not(monkeypatch):
    assert progress.make_bar(3, "training").disable
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    shell = types.SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    with progress.make_bar(3, "training") as bar:
        assert not bar.disable
    assert progress.make_bar(3, "training", is_shown=False).disable


def test_adapt_says_what_it_does(bare, animals, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(resampling, "RESAMPLES", 2)
    bare()
    usual = {"shots": 4, "model": tiny_model, "tensorboard": False, "report": False}
    usual["method"] = "linear_probe"
    clip_adapt.adapt(animals, output="one", **usual)
    said = capsys.readouterr().err
    assert said.startswith("linear_probe on animals, backbone ")
    assert "linear_probe: accuracy " in said and "on 18 test images (zero-shot " in said
    assert said.endswith("written to one\n")
    clip_adapt.adapt(animals, output="two", verbose=False, **usual)
    assert capsys.readouterr().err == ""


def test_a_method_is_chosen_unless_one_is_named():
    assert inspect.signature(clip_adapt.adapt).parameters["method"].default == "auto"


TORCH = "def get_num_threads():\n    return 2\n"


@pytest.mark.parametrize(
    "before, policy, late",
    [("", None, False), ("import torch\n", None, True), ("import torch\n", "ACTIVE", False)],
)
def test_threads_sleep_when_torch_comes_after(before, policy, late, tmp_path):
    (tmp_path / "torch.py").write_text(TORCH)
    code = before + (
        "import logging, os; logging.basicConfig(level=20, format='%(message)s')\n"
        "import clip_adapt\n"
        "from clip_adapt.system.launch import spinning\n"
        "spinning.tell_of_spinning(); spinning.tell_of_spinning()\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    env = {k: v for k, v in os.environ.items() if k != spinning.POLICY}
    env |= {spinning.POLICY: policy} if policy else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == f"{policy or 'PASSIVE'}\n"
    assert done.stderr.count(spinning.LATE) == late
