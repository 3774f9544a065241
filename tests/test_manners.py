"""The command line's manners: help, versions, configuration files, consoles, pipes, completion."""

import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from clip_adapt import __version__, cli
from clip_adapt.cli import completion, console, streams, words
from clip_adapt.config import yamls
from clip_adapt.evaluation.reading import explain_setback, write_rows

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("argv", [["--version"], ["-V"], ["train", "--version"]])
def test_the_version(argv, capsys):
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == f"clip_adapt {__version__}\n"


def test_help_as_a_verb(capsys):
    assert cli.main(["help"]) == 0
    assert cli.main(["help", "report"]) == 0
    assert cli.main(["report", "--help"]) == 0
    overview, *helps = capsys.readouterr().out.split("usage: ")[1:]
    assert "completion" in overview and helps[0].strip() == helps[1].strip()


@pytest.mark.parametrize("verb", cli.VERBS)
@pytest.mark.parametrize("width", [60, 100])
def test_help_fits_the_terminal(verb, width, monkeypatch, run_cli):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, _ = run_cli(verb, "--help")
    long = [line for line in out.splitlines() if len(line) > width and " " in line.strip()]
    assert code == 0 and long == []
    assert "config=FILE.yaml" in out and "verbose=normal" in out


MISSPELT = {
    "trian": "unknown verb 'trian' - did you mean 'train'?",
    "train methd=coop shots=0": "unknown option 'methd' - did you mean 'method'?",
    "train method=copo": "unknown method 'copo' - did you mean 'coop'?",
    "train method=coop method.n_cxt=4": "did you mean 'method.n_ctx'?",
    "sweep method=coop,ldra": "unknown method 'ldra' - did you mean 'lora'?",
    "predict a.png clases=[a,b]": "unknown option 'clases' - did you mean 'classes'?",
    "evaluate out/adapter datset=eyes": "unknown option 'datset' - did you mean 'dataset'?",
    "report runs al=true": "unknown option 'al' - did you mean 'all'?",
    "train --shots 4": "options are written shots=VALUE",
}


def test_a_misspelt_word_is_refused_before_torch_is_imported():
    script = f"""
import sys
from clip_adapt import cli
for line in {list(MISSPELT)!r}:
    assert cli.main(line.split()) == 2
assert not {{"torch", "open_clip", "numpy", "rich"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    for said in MISSPELT.values():
        assert said in done.stderr
    assert "shots=0: expected a whole number, at least 1" in done.stderr  # beside the other


def test_what_is_right_is_not_refused_early(run_cli):
    code, _, err = run_cli("train", "method=adapter", "method.on=image", "dataset=eyes")
    assert code == 2 and err == "error: method.on is now method.side\n"
    code, _, err = run_cli("train", "method={name: coop, n_cxt: 4}")
    assert code == 2 and "did you mean 'method.n_ctx'" in err


def test_help_with_options_shows_what_they_come_to(run_cli):
    Path("own.yaml").write_text("lr: 0.5\nmethod: {name: coop, n_ctx: 4}\n")
    code, out, err = run_cli("train", "--help", "config=own.yaml", "shots=2", "dataset.seed=3")
    assert code == 0, err
    rows = {line.split("=")[0].strip(): line.split() for line in out.splitlines() if "=" in line}
    assert rows["lr"][-1] == "config=own.yaml" and rows["lr"][0] == "lr=0.5"
    assert rows["method.n_ctx"][-1] == "config=own.yaml"
    assert rows["shots"] == ["shots=2", "given"] and rows["dataset.seed"][-1] == "given"
    assert rows["method.csc"][0] == "method.csc=false"
    assert rows["optimizer"][-3:] == ["recipe", "of", "coop"]
    assert rows["guard"] == ["guard=false", "default"]
    assert rows["dataset.on_leak"][-1] == "card"
    code, _, err = run_cli("train", "--help", "shots=0")
    assert (code, err) == (2, "error: shots=0: expected a whole number, at least 1\n")


def test_a_run_goes_again_by_its_own_configuration(train_tiny, run_cli, animals):
    spoken = "{cat: no, dog: 007, eel: eel}"
    code, _, err = train_tiny(animals, "method=linear_probe", f"dataset.classes={spoken}")
    assert code == 0, err
    code, _, err = run_cli("train", "config=out", "output=again", "verbose=quiet")
    assert (code, err) == (0, "")
    both = [yamls.read_yaml(Path(place) / "config.yaml") for place in ("out", "again")]
    assert both[0].pop("output") == "out" and both[1].pop("output") == "again"
    assert both[0] == both[1] and both[0]["dataset"]["classes"]["dog"] == "007"
    tables = [Path(place, "predictions.csv").read_text() for place in ("out", "again")]
    assert tables[0] == tables[1]
    first = Path("again/config.yaml").read_text().splitlines()[0].removeprefix("# ")
    code, _, err = run_cli("train", *shlex.split(first)[3:], "output=third")
    assert code == 0, err
    assert Path("third/predictions.csv").read_text() == tables[0]


def read(*argv):
    given = words.read_options(argv)
    return {key: str(value) for key, value in given.items()}


def test_words_win_over_a_file_and_another_method_takes_its_options_away():
    Path("a.yaml").write_text("shots: 4\nmethod: {name: coop, n_ctx: 4}\nlr: 1e-3\n")
    assert read("config=a.yaml", "shots=8") == {
        **{"method": "coop", "method.n_ctx": "4"},
        **{"shots": "8", "lr": "1e-3"},
    }
    assert read("config=a.yaml", "method=lora") == {"method": "lora", "shots": "4", "lr": "1e-3"}
    assert read("config=a.yaml", "method=coop")["method.n_ctx"] == "4"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("shost: 4\n", "unknown option 'shost' in a.yaml - did you mean 'shots'?"),
        ("metrics: mine.py\n", "a.yaml: metrics names the Python file mine.py, which would be run"),
        ("dataset: {name: x, source: own.py}\n", "say so yourself: dataset.source=own.py"),
        ("method: {name: me}\ncode: {/x/me.py: a}\n", "say so yourself: method=/x/me.py"),
        ("shots: 0\n", "shots=0: expected a whole number, at least 1"),
        ("a: [\n", "a.yaml is not valid YAML"),
    ],
)
def test_what_a_configuration_file_may_not_say(content, said, run_cli):
    Path("a.yaml").write_text(content)
    code, _, err = run_cli("train", "config=a.yaml")
    assert code == 2 and said in err


def test_every_verb_takes_a_configuration_file(run_cli, animals, tiny_model):
    Path("a.yaml").write_text(f"classes: [no, off]\ntop_k: 1\njson: true\nmodel: {tiny_model}\n")
    picture = animals / "test/cat/0.png"
    code, out, err = run_cli("predict", picture, "config=a.yaml", "top_k=2")
    assert code == 0, err
    assert sorted(p["class"] for p in json.loads(out)["predictions"]) == ["no", "off"]
    code, _, err = run_cli("evaluate", "out/adapter", "config=a.yaml")
    assert code == 2 and "unknown option 'top_k' in a.yaml" in err
    Path("a.yaml").write_text("classes: nothing\n")
    code, _, err = run_cli("evaluate", "out/adapter", "config=a.yaml", "dataset=eyes")
    assert code == 2 and "classes=nothing: expected one of delta, dataset" in err


SIGNS = "日本 é █ … 😀 \udcff"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_stream_takes_every_text(encoding, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    streams.prepare_streams()
    print(json.dumps(SIGNS, ensure_ascii=False))
    sys.stdout.flush()
    written = raw.getvalue().decode(encoding)
    plain = SIGNS.replace("█", "#").replace("…", "...")
    expected = {"utf-8": SIGNS, "ascii": plain, "latin-1": plain}
    assert json.loads(written) == expected.get(encoding, SIGNS.replace("█", "#"))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_and_bars_on_consoles_without_utf8(
    encoding, make_folder, run_cli, tiny_model, monkeypatch, train_tiny
):
    names = ("日本 [b]", "h\u202eund", "é")
    root = make_folder("d", splits=(), classes=names, per_class=5)
    raw = io.BytesIO()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(raw, encoding=encoding))
    word = ["method=zero_shot", "shots=1", f"model={tiny_model}", "tensorboard=false", "output=o"]
    assert cli.run("train", [f"dataset={root}", *word]) == 0
    picture = str(root / "é" / "0.png")
    assert cli.run("predict", ["o/adapter", picture, f"model={tiny_model}"]) == 0
    assert cli.run("evaluate", ["o/adapter", f"dataset={root}", f"model={tiny_model}"]) == 0
    assert cli.run("report", ["o"]) == 0
    text = raw.getvalue().decode(encoding)
    assert "| \\u65e5\\u672c [b] | " in text  # the widest
    assert "#####" in text and "\x1b" not in text


def test_a_closed_pipe_ends_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_adapt", "train", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == streams.CLOSED == 141


def test_how_much_is_said(run_cli, animals, tiny_model, monkeypatch):
    word = (f"dataset={animals}", f"model={tiny_model}", "method=zero_shot", "tensorboard=false")
    said = {}
    for verbose in ("quiet", "false", "normal", "debug"):
        monkeypatch.setattr(logging.root, "handlers", [])  # pytest has its own
        code, out, err = run_cli("train", *word, "shots=99", f"verbose={verbose}", "output=o")
        assert code == 0 and "18 test images" in out
        said[verbose] = err
    assert said["quiet"] == said["false"] == ""
    assert "\nfewer than 99 training images" in f"\n{said['normal']}"
    assert "clip_adapt.runs.preparation: fewer than 99" in said["debug"]
    code, _, err = run_cli("train", "shots=0", "verbose=debug")
    assert code == 2 and err.startswith("Traceback") and "error: shots=0" in err
    code, _, err = run_cli("train", "verbose=loud")
    assert (code, err.partition(":")[2][:14]) == (2, " verbose=loud:")


def complete(line):
    """Return what bash offers at the end of a line."""
    parts = line.replace("=", " = ").split(" ")
    script = f"""{completion.write_completion(["bash"])}
COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}
COMP_WORDS=({" ".join(map(shlex.quote, parts))}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_clip_adapt 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_words(capsys):
    Path("my_file").touch()
    assert complete("clip-adapt tr") == ["train"]
    assert complete("clip-adapt train meth")[:1] == ["method="]
    assert complete("clip-adapt train method=co") == ["cocoop", "coop"]
    assert complete("clip-adapt train shots=4 method.n_c") == ["method.n_ctx="]
    assert complete("clip-adapt predict my_") == ["my_file"]
    assert complete("clip-adapt train dataset=my_") == ["my_file"]
    assert cli.main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    lines = completion.write_completion(["fish"]).splitlines()
    assert all(line.startswith(("#", "complete -c clip-adapt -n ")) for line in lines)
    assert cli.main(["completion", "tcsh"]) == 2
    assert "There is: bash, zsh, fish" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["it's [old] $HOME", "a=b c", "-x"])
def test_the_line_that_is_printed_can_be_pasted(place, make_folder, train_tiny, run_cli):
    make_folder(f"./{place}/data", splits=(), classes=("a", "b"), per_class=5)
    word = ("method=zero_shot", "shots=1", f"output={place}/out")
    code, out, err = train_tiny(f"{place}/data", *word)
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("try:")]
    typed = shlex.split(line.removeprefix("try:"))
    assert typed[:3] == ["python", "-m", "clip_adapt.predict"]
    code, out, err = run_cli("predict", *typed[3:])
    assert code == 0 and "%" in out, err
    assert Path(typed[4]).is_file()


def test_a_run_of_another_configuration_is_not_overwritten(
    make_folder, run_cli, tiny_model, caplog
):
    for place in ("A/images", "B/images"):
        make_folder(place, splits=(), classes=("a", "b"), per_class=5)
    usual = (f"model={tiny_model}", "method=zero_shot", "tensorboard=false", "report=false")

    def train(dataset, *more):
        caplog.clear()
        code, out, err = run_cli("train", f"dataset={dataset}", *usual, "shots=1", *more)
        assert code == 0, err
        place = next(line.split()[-1] for line in out.splitlines() if "writes to" in line)
        return place, "\n".join(record.getMessage() for record in caplog.records)

    first, err = train("A/images")
    assert "another configuration" not in err
    kept = Path(first, "predictions.csv").read_text()
    second, err = train("B/images")
    assert second == f"{first}-2" and f"{first} holds a finished run of another conf" in err
    assert "dataset.root: " in err and f"this one goes to {second}" in err
    assert Path(first, "predictions.csv").read_text() == kept
    assert train("B/images") == (second, err)  # the same again takes its own place
    assert train("A/images", "cache=false")[0] == first  # what changes no number is no other
    assert train("A/images", "precision=fp32")[0] == f"{first}-3"
    _, err = train("A/images", "output=own")
    assert "holds a finished" not in err
    _, err = train("A/images", "output=own", "precision=fp32")
    assert "own holds a finished run of another configuration (precision: auto, now fp32)" in err
    assert "it is replaced" in err


def test_ending_below_zero_shot_is_said():
    facts = {"test": {"accuracy": {"value": 0.4}}, "zero_shot": {"accuracy": {"value": 0.5}}}
    assert explain_setback(facts, "accuracy", ["more shots", "method=auto"]) == (
        "this ends below zero-shot: accuracy 40.0 %, zero-shot 50.0 %. "
        "Try more shots, or method=auto"
    )
    facts["test"] = facts["zero_shot"]
    assert explain_setback(facts, "accuracy", []) is None
    assert explain_setback(facts, "auroc", []) is None


def test_a_narrow_terminal_cuts_no_number_off(animals, train_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "WIDTH", 40)
    code, out, err = train_tiny(animals, "method=zero_shot", "report=false")
    assert code == 0, err
    table = [line for line in out.splitlines() if "│" in line or "┃" in line]
    cells = "".join(re.sub("[│┃ ]", "", line.split("│")[-2]) for line in table if "│" in line)
    whole = [
        row[2].replace(" ", "")
        for row in write_rows(json.loads(Path("out/metrics.json").read_text()))
    ]
    assert all(len(line) <= 40 for line in table) and "…" not in "".join(table)
    assert cells == "".join(whole)


def test_an_empty_output_is_no_place(animals, train_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = train_tiny(animals, "method=zero_shot", "output=")
    assert code == 2 and not Path("metrics.json").exists()
    assert "error: output= is empty: expected a folder; output=. is the one you are in" in err
