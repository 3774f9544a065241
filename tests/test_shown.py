"""Names and texts of somebody else's are shown by whatever reads them, and obeyed by nothing."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from html_page import Page

from clip_adapt.cli.console import ShownConsole
from clip_adapt.errors import InputError
from clip_adapt.pages import facts
from clip_adapt.system.text import csv_text, messages, names, showing

CLASSES = ("\x1b]0;owned\x07cat", "=1+2 \u202edog", "${oc.env:HOME} [/x] <blink>|`*[x](y)*")
TEMPLATE = "a photo of {}\nin a ${clinic} \x1b[31m"


@pytest.fixture
def hostile(tmp_path, animals):
    """A card whose class names are what terminals, spreadsheets, Markdown and YAML obey."""
    path = tmp_path / "card.yaml"
    spoken = dict(zip(("cat", "dog", "eel"), CLASSES, strict=True))
    held = {"name": "pets [b] ${x}", "source": "folder", "root": str(animals), "classes": spoken}
    path.write_text(yaml.safe_dump(held))
    return path


def test_a_run_of_hostile_names(train_tiny, hostile, run_cli, tmp_path, animals, monkeypatch):
    monkeypatch.setenv("HOME", "/home/secret")
    code, out, err = train_tiny(hostile, "method=zero_shot", "epochs=0", f"template={TEMPLATE}")
    assert code == 0, err
    for words in (
        ("predict", "out/adapter", animals / "test/cat/0.png", "model=tiny.yaml"),
        ("evaluate", "out/adapter", f"dataset={hostile}", "model=tiny.yaml", "json=true"),
        ("predict", "out/adapter", animals / "test/cat/0.png", "model=tiny.yaml", "json=true"),
        ("report", "out"),
    ):
        code, more, err = run_cli(*words)
        assert code == 0, err
        assert showing.show_text(more + err) == more + err
        out += more
    assert "pets [b] ${x}" in out
    assert json.loads(more_of(run_cli, animals))["predictions"][0]["class"] in CLASSES

    written = facts.read(tmp_path / "out")
    assert written.predictions().classes == list(CLASSES)
    assert {row["label"] for row in written.support()} == set(CLASSES)
    assert written.config["template"] == TEMPLATE
    assert list(written.config["dataset"]["classes"].values()) == list(CLASSES)
    assert written.config_text.startswith("# python -m clip_adapt.train ")
    for name in ("config.yaml", "metrics.json", "support.jsonl", "adapter/README.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert showing.show_text(text) == text or name == "config.yaml", name
        assert "\x1b" not in text and "\x07" not in text
        assert "/home/secret" not in text
    card = (tmp_path / "out/adapter/README.md").read_text(encoding="utf-8")
    listed = r"- Classes: \\x1b\]0;owned\\x07cat, =1+2 \\u202edog, ${oc.env:HOME} "
    assert listed + r"\[/x\] \<blink\>\|\`\*\[x\](y)\*" in card
    page = Page((tmp_path / "out/report.html").read_text(encoding="utf-8"))
    assert page.all("blink") == [] and CLASSES[2] in page.text
    with open(tmp_path / "out/predictions.csv", encoding="utf-8", newline="") as file:
        cells = {row["label"] for row in csv.DictReader(file)}
    assert "'=1+2 \u202edog" in cells and "=1+2 \u202edog" not in cells


def more_of(run_cli, animals):
    """Return the line of JSON of a prediction."""
    words = ("model=tiny.yaml", "json=true", "top_k=1")
    return run_cli("predict", "out/adapter", animals / "test/cat/0.png", *words)[1]


def test_errors_and_messages_are_shown(run_cli, capsys):
    code, _, err = run_cli("predict", "\x1b[2J\x9b31m.png", "classes=[a, b]")
    assert code == 2 and r"\x1b[2J\x9b31m.png" in err
    assert showing.show_text(err) == err
    from clip_adapt import cli

    handler = messages.make_handler()
    record = logging.makeLogRecord({"msg": "at %s\nand on", "args": ("\x1b[1m",)})
    assert handler.format(record) == "at \\x1b[1m\nand on"
    assert cli.main(["\x1b[1m"]) == 2
    assert r"\x1b[1m" in capsys.readouterr().err


def test_a_console_draws_texts(capsys):
    from rich.table import Table

    table = Table(title="\x1b[1mtitle [b]")
    table.add_column("[/]\x07", no_wrap=True)
    table.add_row("\x1b[31mcell[/red] :smile:")
    console = ShownConsole()
    console.print(table)
    console.print("[/b]\x1b")
    out = capsys.readouterr().out
    assert showing.show_text(out) == out
    for part in (r"\x1b[1mtitle [b]", r"[/]\x07", r"\x1b[31mcell[/red] :smile:", r"[/b]\x1b"):
        assert part in out


@pytest.mark.parametrize(
    "text",
    [
        *("=1", "==", "'", "''=x", "'=x", "-5", "'-5", "-5a", "+1e3", "@x", "\tx", "\rx", "-"),
        *("", "a,b", "\n=x", "＝1", 'say "x"', "'tis", "\x1b[1m", "-0.25", "a\rb", "\r"),
    ],
)
def test_a_table_reads_back_and_holds_no_formula(text):
    written = csv_text.write_table([["path", text], [text, 1]])
    rows = csv_text.read_table(io.StringIO(written, newline=""))
    assert list(rows) == [["path", text], [text, "1"]]
    cell = next(csv.reader(io.StringIO(written, newline="")))[1]
    assert not re.match("[=+@\t\r\n＝-]", cell) or re.fullmatch(r"[-+][0-9.e]+", cell)


@pytest.mark.parametrize("word", ["a b", "it's", TEMPLATE, "\\x41", "\u202e", "caf\udce9", "$HOME"])
def test_a_command_is_one_line_that_a_shell_reads(word):
    line = showing.write_command(["printf", "%s", word])
    assert showing.is_plain(line)
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env=environment)
    assert os.fsdecode(done.stdout) == word


def test_json_reads_back_and_every_character_is_seen():
    value = {"\u202e": ["\x9b\x1b", "caf\udce9", "日本", {"a\nb": 1.5}]}
    text = showing.write_json(value)
    assert showing.is_plain(text) and "日本" in text
    assert json.loads(text) == value


@pytest.mark.parametrize("text", ["a", "`", "``a`b", "a```", "\x1b`"])
def test_code_in_markdown_is_not_ended_by_what_is_in_it(text):
    code = showing.write_code(text)
    fence = code[: len(code) - len(code.lstrip("`"))]
    assert code.endswith(fence) and fence not in re.findall("`+", code[len(fence) : -len(fence)])


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "a/b", "a\\b", "..", ".", " ", "a\x1bb", "x" * 201]
)
def test_a_name_is_one_part_of_a_path(name, tmp_path, animals):
    from clip_adapt.data import catalog

    made = Path(names.make_file_name(name))
    assert len(made.parts) == 1 and made.name not in ("", "..") and showing.is_plain(made.name)
    assert made.name != names.make_file_name(f"{name}/")
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump({"name": name, "source": "folder", "root": str(animals)}))
    with pytest.raises(InputError, match="cannot name the folder of its runs: it"):
        catalog.find_dataset(str(card))
    given = {"name": name}
    with pytest.raises(InputError, match=r"Give another with dataset\.name=NAME"):
        catalog.find_dataset(str(animals), given)


def test_ordinary_names_stay(tmp_path):
    for name in ("eyes", "photos [old]", "Café", "日本", "a.b-c_d", "coop-lite-16shot-seed1", ".x"):
        assert names.make_file_name(name) == name


def test_names_of_other_bytes_are_refused_before_training(train_tiny, make_folder, everything_in):
    root = os.fsencode(make_folder("own").absolute())
    os.rename(root + b"/train/cat/0.png", root + b"/train/cat/caf\xe9.png")
    code, _, err = train_tiny("own")
    assert code == 2 and err.startswith("error: 1 names are not UTF-8:\n  ")
    assert "own/train/cat/caf\\udce9.png\nRename them: convmv" in err
    os.rename(root + b"/train/cat/caf\xe9.png", root + b"/train/cat/0.png")
    for split in (b"/train", b"/val", b"/test"):
        os.rename(root + split + b"/dog", root + split + b"/h\xfcnd")
    code, _, err = train_tiny("own")
    assert code == 2 and "h\\udcfcnd" in err
    os.rename(root, b"h\xfc")
    code, _, err = train_tiny("h\udcfc")
    assert code == 2 and err == "error: dataset=h\\udcfc is not UTF-8: rename it\n"
    assert everything_in("out") is None
