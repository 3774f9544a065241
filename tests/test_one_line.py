"""What is no value of its form is refused in one line where it enters, by every door."""

from __future__ import annotations

import json
import os
import shutil
import zipfile

import pytest

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.weights import foreign, torchscript
from clip_adapt.backbone.weights.preprocessing import read_preprocessing
from clip_adapt.config import yamls
from clip_adapt.config.values import check
from clip_adapt.data.sources import _table
from clip_adapt.data.sources._table import read_table
from clip_adapt.errors import InputError
from clip_adapt.system import reading

DEEP = "[" * 100_000 + "]" * 100_000
LONG = "x" * 300


def refuse(code, err):
    assert code == 2 and "Traceback" not in err
    assert err.count("error: ") == 1
    return err


@pytest.mark.parametrize(
    "words",
    [
        ("train", f"dataset={LONG}"),
        ("train", f"model={'/'.join([LONG] * 20)}"),
        ("train", "dataset=~nobody-of-that-name/x"),
        ("train", f"dataset.root={LONG}", "dataset=x.yaml"),
        ("train", LONG),
        ("evaluate", LONG, "dataset=eyes"),
        ("predict", LONG, "a.png"),
        ("predict", f"/{'y' * 5000}", "a.png"),
        ("report", LONG),
        ("sweep", f"method={LONG}"),
        ("evaluate", "~nobody-of-that-name/adapter", "dataset=eyes"),
    ],
)
def test_a_word_longer_than_a_file_name(run_cli, words):
    code, _out, err = run_cli(*words)
    assert refuse(code, err)
    assert max(map(len, err.splitlines())) < 7000


def test_sixty_class_names(run_cli, animals, tiny_model):
    names = ", ".join(f"the class of number {i}" for i in range(60))
    picture = animals / "test" / "cat" / "0.png"
    code, _out, err = run_cli("predict", picture, f"classes=[{names}]", f"model={tiny_model}")
    assert code == 0, err


def test_a_message_does_not_repeat_what_is_endless(run_cli):
    code, _, err = run_cli("train", f"shots={'9' * 100_000}")
    assert len(refuse(code, err)) < 2000
    assert "characters more)" in err


@pytest.mark.parametrize(
    "text", ["9" * 200, "-" + "9" * 200, "true", "-1", ".inf", "1.5", "[1, 2]"]
)
def test_a_seed_that_is_none(run_cli, animals, text):
    code, _, err = run_cli("train", f"dataset={animals}", f"seed={text}")
    assert f"seed={text}: expected a" in refuse(code, err)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), 10**200])
def test_a_number_that_is_not_finite(number):
    with pytest.raises(ValueError, match="a number"):
        check(number, float)


def test_the_largest_whole_number():
    assert check(2**63 - 1, int) == 2**63 - 1
    with pytest.raises(ValueError, match="a number of at most 18 digits"):
        check(2**63, int)


def test_a_tree_is_as_deep_as_its_lists_and_maps():
    assert [reading.measure_depth(t) for t in (1, [], [{}], {"a": [[1], 2]})] == [0, 1, 2, 3]
    at_most = reading.DEEPEST * "[" + reading.DEEPEST * "]"
    assert reading.measure_depth(reading.parse_json(at_most, "it")) == reading.DEEPEST
    for text in (f"[{at_most}]", DEEP):
        with pytest.raises(InputError, match="it is nested over 64 deep: this is damaged"):
            reading.parse_json(text, "it")


def test_json_that_cannot_be_read(tmp_path):
    file = tmp_path / "a.json"
    with pytest.raises(InputError, match=r"a.json cannot be read: No such file"):
        reading.read_json(file)
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match=r"a.json is not text in UTF-8: byte 0xff at 7"):
        reading.read_json(file)
    file.write_text(f"[{'9' * 5000}]")
    with pytest.raises(InputError, match=r"a.json is damaged: it is not JSON \(Exceeds the limit"):
        reading.read_json(file)


@pytest.mark.parametrize("name", ["split_zhou_x.json", "subset.json", "subset.jsonl", "card.yaml"])
def test_files_nested_without_end(run_cli, tmp_path, name):
    (tmp_path / name).write_text(DEEP)
    more = ["dataset.of=eyes"] if name.startswith("subset") else []
    code, _, err = run_cli("train", f"dataset={name}", *more)
    assert "nest" in refuse(code, err)


def test_a_model_folder_nested_without_end(run_cli, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "open_clip_config.json").write_text(DEEP)
    code, _, err = run_cli("train", "model=m", "dataset=eyes")
    assert "m/open_clip_config.json is nested over 64 deep" in refuse(code, err)


@pytest.mark.parametrize(
    "encoding", ["zip", "hex", "rot13", "base64", "undefined", "idna", "punycode", "a\0b", "", LONG]
)
def test_an_encoding_that_is_not_of_text(tmp_path, encoding):
    (tmp_path / "t.csv").write_text("image,label\na.png,cat\n")
    with pytest.raises(InputError, match="no such encoding; expected utf-8, cp1252, utf-16"):
        _table.read_table(tmp_path / "t.csv", encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16", "utf-32", "utf-7", "shift_jis"])
def test_an_encoding_of_text(tmp_path, encoding):
    (tmp_path / "t.csv").write_text("image,label\na.png,cat\n", encoding=encoding)
    assert _table.read_table(tmp_path / "t.csv", encoding).rows == [
        {"image": "a.png", "label": "cat"}
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, None]},
        {"mean": ["0", "0", "0"]},
        {"mean": {"r": 1}},
        {"mean": [float("nan"), 0, 0]},
        {"std": [0.2, 0.0, 0.2]},
        {"std": [0.2, 0.2, 0.2, 0.2]},
        {"std": "0.2"},
        {"std": [-0.2, 0.2, 0.2]},
        {"interpolation": "nearest"},
        {"interpolation": 3},
        {"resize_mode": "stretch"},
        {"mode": "L"},
        {"fill_color": "white"},
        {"fill_color": 10**200},
        [],
        "shortest",
    ],
)
def test_preprocess_values_that_cannot_be_used(given):
    with pytest.raises(InputError, match="preprocess_cfg"):
        read_preprocessing(given, 32)


def test_preprocess_values_are_what_they_were():
    given = {
        "mean": (0.5, 0.4, 0.4),
        "std": [0.2, 0.3, 0.2],
        "size": 7,
        "interpolation": None,
        "x": 1,
    }
    made = read_preprocessing(given, 32)
    assert made == {
        "size": 32,
        "mode": "RGB",
        "mean": (0.5, 0.4, 0.4),
        "std": [0.2, 0.3, 0.2],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    assert read_preprocessing({"mean": 0.5}, 32)["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"text_cfg": {"layers": 49408}}, "layers=49408: expected a whole number from 0 to 1,000"),
        ({"vision_cfg": {"layers": [3, 4000]}}, "layers=4000: expected"),
        (
            {"vision_cfg": {"width": 10**9}},
            "width=1000000000: expected a whole number from 0 to 100,000",
        ),
        ({"a": {"norm_kwargs": {"eps": float("nan")}}}, "eps=nan: expected"),
        ({"embed_dim": float("-inf")}, "embed_dim=-inf: expected"),
    ],
)
def test_sizes_that_no_model_has(config, expected):
    with pytest.raises(InputError, match=expected):
        foreign.check_sizes(config)
    foreign.check_sizes({"vocab_size": 256_000, "layers": [3, 4, 6, 3], "quick_gelu": True})


def test_a_model_folder_of_wrong_types(tmp_path):
    sizes = {"hidden_size": 8, "num_attention_heads": 0, "intermediate_size": "16"}
    held = {"model_type": "clip", "text_config": sizes, "vision_config": sizes}
    (tmp_path / "config.json").write_text(json.dumps(held))
    with pytest.raises(
        InputError, match=r"its configuration asks for what open_clip .* cannot build"
    ):
        Backbone.load(str(tmp_path), device="cpu")


def write_archive(file, graph, compression=zipfile.ZIP_STORED, tail=b""):
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("m/code/__torch__/a.py", "class Module(Module):\n")
        archive.writestr("m/data.pkl", b"\x80\x02" + graph + b"." + tail)
    return file


def write_object(**attributes):
    """Return the instructions of an object; of what is written once and named again."""
    text = b"c__torch__.a\nModule\n)\x81}"
    for name, value in attributes.items():
        text += b"X" + len(name).to_bytes(4, "little") + name.encode() + value + b"s"
    return text + b"b"


def test_an_archive_whose_objects_explode(tmp_path):
    graph = write_object()
    for level in range(60):  # each names the one before twice: 2 to the power of 60 ways
        number = bytes([level])
        graph = write_object(left=graph + b"q" + number, right=b"h" + number)
    file = write_archive(tmp_path / "a.pt", graph)
    assert os.path.getsize(file) < 6000
    with pytest.raises(InputError, match=r"a.pt is not a TorchScript .* refer to one another"):
        torchscript.read_archive(file)


def test_an_archive_that_holds_itself(tmp_path):
    graph = b"c__torch__.a\nModule\n)\x81q\x00}X\x04\x00\x00\x00selfh\x00sb"
    with pytest.raises(InputError, match="refer to one another without end"):
        torchscript.read_archive(write_archive(tmp_path / "a.pt", graph))


def test_an_archive_is_as_deep_as_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr(torchscript, "DEEPEST", 2)
    graph = write_object(b=write_object(c=write_object()))
    assert torchscript.read_archive(write_archive(tmp_path / "a.pt", graph)) == {}
    with pytest.raises(InputError, match="refer to one another without end"):
        torchscript.read_archive(write_archive(tmp_path / "b.pt", write_object(a=graph)))


def test_an_archive_that_unpacks_to_more_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(torchscript, "MOST_CODE", 1 << 20)
    tail = bytes(2 << 20)
    file = write_archive(tmp_path / "a.pt", write_object(), zipfile.ZIP_DEFLATED, tail)
    assert os.path.getsize(file) < 5000
    with pytest.raises(InputError, match=r"m/data.pkl would unpack to 2097"):
        torchscript.read_archive(file)
    assert torchscript.read_archive(write_archive(file, write_object(), tail=tail)) == {}


@pytest.fixture(scope="module")
def finished(make_folder, tiny_card, tmp_path_factory):
    """The folder of a finished run, to be copied."""
    from clip_adapt import api

    top = tmp_path_factory.mktemp("finished")
    animals = make_folder(top / "animals")
    weights = {"model.pretrained": str(tiny_card.pretrained)}
    quick = {"tensorboard": False, "report": False, "cache": False, "shots": 1}
    model = {"model": tiny_card.architecture, **weights}
    api.adapt(str(animals), method="zero_shot", output=str(top / "run"), **model, **quick)
    return top / "run"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "[]"),
        ("metrics.json", '{"test": 3}'),
        ("metrics.json", '{"test": {"accuracy": 0.5}}'),
        ("metrics.json", '{"test": {"accuracy": null}}'),
        ("metrics.json", DEEP),
        ("config.yaml", "a: 1"),
        ("config.yaml", "method: zero_shot"),
        ("config.yaml", b"\xff\xfe"),
        ("predictions.csv", "path,label\n"),
        ("predictions.csv", 'path,label,p:cat\n"a'),
        ("predictions.csv", "path,label,p:cat\na.png,cat,7\n"),
        ("support.jsonl", "3\n"),
        ("support.jsonl", "{}\n"),
        ("support.jsonl", DEEP),
        ("support.jsonl", b"\xff"),
    ],
)
def test_a_damaged_run_has_no_page(run_cli, finished, tmp_path, name, content):
    shutil.copytree(finished, tmp_path / "run")
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "run" / name).write_bytes(data)
    code, _, err = run_cli("report", "run")
    assert "run" in refuse(code, err)
    assert not (tmp_path / "run" / "report.html").exists()
    code, _, err = run_cli("report", ".", "all=true")
    refuse(code, err)


def test_a_list_of_folders_is_one_value_of_a_sweep(run_cli, make_folder, tiny_model, tmp_path):
    make_folder(tmp_path / "pictures", splits=(), per_class=3)
    classes = ("cat", "dog", "eel")
    rows = [
        [f"{name}/{i}.png", label, name] for i in range(3) for label, name in enumerate(classes)
    ]
    parts = {"train": rows[:3], "val": rows[3:6], "test": rows[6:]}
    (tmp_path / "split_zhou_mine.json").write_text(json.dumps(parts))
    words = ["dataset=split_zhou_mine.json", f"model={tiny_model}", "method=zero_shot", "output=o"]
    words += ["dataset.images=[nowhere, pictures]", "tensorboard=false", "report=false"]
    code, out, err = run_cli("sweep", *words)
    assert code == 0, out + err
    assert len(list((tmp_path / "o").rglob("metrics.json"))) == 1


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="there is no such device")
@pytest.mark.parametrize("option", ["dataset=/dev/zero", "dataset.file=/dev/zero"])
def test_what_never_ends_is_not_read(run_cli, animals, tiny_model, option):
    words = [option, f"model={tiny_model}", "method=zero_shot", "output=out"]
    if option.startswith("dataset."):
        words += [f"dataset={animals}", "dataset.source=csv", "dataset.image=path"]
    code, _, err = run_cli("train", *words)
    assert code == 2 and err.count("error: ") == 1 and len(err) < 2000


def test_a_pipe_is_not_a_table(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (reading.read_text, yamls.read_yaml, read_table):
        with pytest.raises(InputError, match="is a device, a pipe or a socket"):
            read(tmp_path / "pipe")
