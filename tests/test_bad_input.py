"""What a person can get wrong: one message, exit code 2 (130 for Ctrl-C), nothing half-written."""

import errno
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from clip_adapt.adapted import delta
from clip_adapt.inputs import features
from clip_adapt.system import files, tensor_files
from clip_adapt.system.launch import stopping
from clip_adapt.training import fitting, loop


@pytest.fixture
def refused(train_tiny, tmp_path):
    """A function that trains, expects a refusal that leaves nothing, and returns the message."""

    def train(dataset, *words):
        code, out, err = train_tiny(dataset, *words)
        assert code == 2, out + err
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
        return err[err.index("error: ") + len("error: ") :].rstrip("\n")

    return train


@pytest.fixture
def own(make_folder, tmp_path):
    """A folder of images that a test may spoil."""
    return make_folder(tmp_path / "own", per_class=3)


def spoil(root):
    """Spoil an image in each way; return the reasons by path, in the order of the splits."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        root / "val" / "dog" / "9.png"
    )
    whole = (root / "val" / "dog" / "9.png").read_bytes()
    (root / "val" / "dog" / "9.png").unlink()
    (root / "train" / "cat" / "1.png").write_bytes(b"not an image at all")
    (root / "val" / "dog" / "2.png").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "eel" / "0.png").write_bytes(b"")
    return {
        root / "train" / "cat" / "1.png": "this is no image that can be read",
        root / "val" / "dog" / "2.png": "damaged: ",
        root / "test" / "eel" / "0.png": "the file is empty (0 bytes)",
    }


def test_a_misspelt_option(refused, animals):
    message = refused(animals, "shotz=4")
    assert message.startswith("unknown option 'shotz' - did you mean 'shots'? There is: method, ")
    assert len(message.splitlines()) == 1


def test_options_in_another_programs_style(run_cli):
    code, _, err = run_cli("train", "--batch-size=4", "coop")
    assert code == 2
    assert err.splitlines() == [
        "error: expected key=value, got '--batch-size=4' - options are written batch_size=VALUE",
        "expected key=value, got 'coop'",
    ]


@pytest.mark.parametrize("shots", ["0", "-2", "some", "2.5", ""])
def test_shots_that_are_no_positive_number(refused, animals, shots):
    expected = f"shots={shots}: expected a whole number, at least 1"
    assert refused(animals, f"shots={shots}") == expected


def test_a_folder_that_does_not_exist(refused, tmp_path):
    message = refused(tmp_path / "none")
    assert message.startswith(f"unknown data set '{tmp_path / 'none'}'")
    assert message.endswith(f"No such folder or file exists: {tmp_path / 'none'}")


def test_an_empty_folder(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    message = refused(tmp_path / "empty")
    assert message.startswith(f"{tmp_path / 'empty'} has no classes: it holds no images. Expected ")


def test_a_folder_with_one_class(refused, make_folder, tmp_path):
    root = make_folder(tmp_path / "one", splits=(), classes=("cat",))
    assert refused(root) == (
        f"{root} has one class with images, 'cat': expected at least two to tell apart, "
        "one folder each."
    )


def test_two_classes_with_one_name(refused, make_folder, tmp_path):
    message = refused(make_folder(tmp_path / "d", classes=("a_b", "a b")))
    assert message.startswith("two classes have the name 'a b': 'a b', 'a_b'. Rename one, ")


def test_a_class_with_fewer_images_than_shots_is_used_and_said(train_tiny, own, tmp_path, caplog):
    (own / "train" / "dog" / "0.png").unlink()
    code, _, _ = train_tiny(own, "shots=3")
    assert code == 0
    assert "fewer than 3 training images in dog: 2" in caplog.text
    assert (
        '"notes": [\n  "fewer than 3 training images in dog: 2"'
        in (tmp_path / "out" / "metrics.json").read_text()
    )


def test_all_unreadable_images_are_listed_before_anything_is_trained(refused, own, monkeypatch):
    reasons = spoil(own)
    monkeypatch.setattr(fitting, "train", None)
    monkeypatch.setattr(features, "extract", None)
    lines = refused(own).splitlines()
    assert lines[0] == "3 images cannot be read:"
    for line, (path, reason) in zip(lines[1:4], reasons.items(), strict=True):
        assert line.startswith(f"  {path}: {reason}")
    assert lines[4:] == [
        "Repair or remove them, or go on without them: on_bad_image=skip",
    ]


def test_unreadable_images_can_be_left_out_and_are_said(train_tiny, own, tmp_path, caplog):
    reasons = spoil(own)
    code, out, _ = train_tiny(own, "on_bad_image=skip", "shots=3")
    assert code == 0
    assert "3 images cannot be read and are left out:" in caplog.text
    for path in reasons:
        assert str(path) in caplog.text
    assert "8 test images" in out
    manifest = (tmp_path / "out" / "support.jsonl").read_text()
    assert len(manifest.splitlines()) == 8 + 8
    assert "cat/1.png" not in manifest.replace("val/cat/1.png", "")


def test_a_class_whose_images_are_all_unreadable(refused, own):
    for path in (own / "train" / "cat").iterdir():
        path.write_bytes(b"")
    assert refused(own, "on_bad_image=skip") == "no readable training image is left in: cat"


def test_one_image_in_two_splits(refused, own):
    shutil.copy(own / "train" / "cat" / "0.png", own / "test" / "dog" / "0.png")
    assert refused(own).startswith(
        "1 images stand in two splits, so a test score would be too good:\n"
        f"  {own / 'train' / 'cat' / '0.png'}  =  {own / 'test' / 'dog' / '0.png'}\n"
    )


def test_a_card_with_an_unknown_key(refused, tmp_path, own):
    card = tmp_path / "card.yaml"
    card.write_text("name: zoo\nsource: folder\nroot: own\ntemplate: a {}\n")
    message = refused(card)
    assert message.startswith(
        f"unknown option 'dataset.template' in {card} - did you mean 'dataset.templates'?"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "is not valid YAML"),
        ("- a\n", "holds no mapping"),
    ],
)
def test_a_card_that_is_no_yaml(refused, tmp_path, text, expected):
    card = tmp_path / "card.yaml"
    card.write_text(text)
    message = refused(card)
    assert message.startswith(f"{card} {expected}")


def test_a_model_card_with_an_unknown_key(refused, animals, tiny_model):
    with open(tiny_model, "a", encoding="utf-8") as file:
        file.write("weights: none\n")
    message = refused(animals)
    assert message.startswith(f"unknown option 'model.weights' in {tiny_model}.")


def test_weights_that_do_not_exist(refused, animals, tmp_path):
    message = refused(animals, "model.pretrained=none.safetensors")
    assert message.startswith(
        "model.pretrained=none.safetensors is neither a tag of tiny nor a file (looked at "
        f"{tmp_path / 'none.safetensors'})"
    )


@pytest.mark.parametrize("words", [("select=val",), ("select=val", "epochs=1")])
def test_selection_on_val_without_val(refused, make_folder, tmp_path, words):
    root = make_folder(tmp_path / "d", splits=("train", "test"))
    assert refused(root, *words) == (
        "select=val needs validation images and there are none: add a val split or use "
        "select=last (the published protocol)"
    )


def test_a_loss_that_is_not_finite_names_a_smaller_rate(refused, animals):
    message = refused(animals, "lr=1e30", "epochs=20", "warmup=0")
    assert message.startswith("the loss is not finite any more in epoch ")
    assert message.endswith("Use a smaller learning rate (lr=1e+29; it is 1e+30), or clip_norm=1.")


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


DISK_FULL = (
    "the disk is full. Free some space or choose another place with output=DIR (results) or "
    "cache_dir=DIR (caches)."
)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
    ],
)
def test_a_disk_that_takes_nothing_from_the_start(refused, animals, monkeypatch, number, reason):
    def probe(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", probe)
    assert refused(animals) == (
        f"cannot write into out: {reason}. Free some space or choose another place with "
        "output=DIR (results) or cache_dir=DIR (caches)."
    )


@pytest.mark.parametrize("place", ["replace", "save", "fsync"])
def test_a_disk_that_fills_up_at_the_end(refused, animals, monkeypatch, place):
    home = tensor_files if place == "save" else files.os
    real = getattr(home, place)

    def writes(*args, **kwargs):
        if place != "replace" or "adapter" in str(args[-1]):
            full_disk()
        return real(*args, **kwargs)

    monkeypatch.setattr(home, place, writes)
    message = refused(animals, "cache=false")
    # Of all files the first is synced before anything is trained.
    where = "out/.unfinished" if place == "fsync" else "out/.unfinished/adapter"
    assert message == f"cannot write into {where}: {DISK_FULL}"


def test_a_run_that_fails_leaves_a_folder_that_was_there_as_it_was(
    train_tiny, animals, tmp_path, monkeypatch, everything_in
):
    (tmp_path / "out" / "adapter").mkdir(parents=True)
    (tmp_path / "out" / "adapter" / delta.FILE).write_text("an earlier delta")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    monkeypatch.setattr(files.os, "replace", full_disk)
    code, _, err = train_tiny(animals, "cache=false")
    assert code == 2
    assert f"cannot write into out/.unfinished: {DISK_FULL}" in err
    assert everything_in(tmp_path / "out") == ["adapter/adapter.safetensors", "notes.txt"]
    assert (tmp_path / "out" / "adapter" / delta.FILE).read_text() == "an earlier delta"


def test_an_output_under_a_file(run_cli, train_tiny, animals, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = train_tiny(animals, "output=file/out")
    assert code == 2
    assert "error: cannot write into file/out: a part of this path is a file. Free some " in err
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_an_output_in_a_folder_that_is_read_only(train_tiny, animals, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = train_tiny(animals, "output=locked/out")
    assert code == 2
    assert "error: cannot write into locked/out: permission is denied. Free some space" in err


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_an_interrupt_while_training(train_tiny, animals, tmp_path, monkeypatch, everything_in):
    monkeypatch.setattr(loop.Loop, "_make_step", interrupt)
    monkeypatch.setattr(stopping, "leave_signals_to_system", lambda: None)
    code, _, err = train_tiny(animals, "tensorboard=false")
    assert code == 130
    assert err.endswith("interrupted; nothing half-written was left\n")
    assert "Traceback" not in err
    assert everything_in(tmp_path) == ["tiny.yaml"]


@pytest.mark.parametrize("name", ["adapter.safetensors", "README.md"])
def test_an_interrupt_while_writing_the_delta(
    train_tiny, animals, tmp_path, monkeypatch, everything_in, name
):
    real = files.os.replace

    def replace(source, target):
        if str(target).endswith(name):
            interrupt()
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    monkeypatch.setattr(stopping, "leave_signals_to_system", lambda: None)
    code, _, err = train_tiny(animals)
    assert code == 130
    assert "Traceback" not in err
    assert everything_in(tmp_path) == ["tiny.yaml"]


def test_a_method_that_refuses_its_own_options(refused, animals, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from clip_adapt.method import Method\n"
        "class Mine(Method):\n"
        "    def __init__(self, backbone, task, *, alpha: float = 1.0):\n"
        "        raise ValueError(f'alpha={alpha}: expected less than 1')\n"
    )
    message = refused(animals, "method=mine.py", "method.alpha=2")
    assert message == "method mine: alpha=2.0: expected less than 1"


def test_a_fault_of_ours_is_no_refusal(train_tiny, animals, monkeypatch):
    def fault(*args, **kwargs):
        raise RuntimeError("a fault")

    monkeypatch.setattr(loop.Loop, "_make_step", fault)
    with pytest.raises(RuntimeError, match="a fault"):
        train_tiny(animals)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("predict",), "expected images: predict ADAPTER photo.jpg ..., or predict photo.jpg ... "),
        (("predict", "runs/x/adapter"), "expected images: predict ADAPTER photo.jpg"),
        (("predict", "a.png", "classes=[cat]"), "1 images cannot be read:\n  a.png: no such file"),
        (("evaluate", "dataset=eyes"), "expected a delta (a folder adapter/), or several"),
        (("evaluate", "none"), "dataset is missing: it is text"),
        (("predict", "a.png", "top_k=0"), "top_k=0: expected a whole number, at least 1"),
        (
            ("predict", "a.png", "clases=[a, b]"),
            "unknown option 'clases' - did you mean 'classes'?",
        ),
    ],
)
def test_what_evaluate_and_predict_refuse(run_cli, words, expected, tmp_path, everything_in):
    code, out, err = run_cli(*words)
    assert code == 2
    assert err.startswith(f"error: {expected}")
    assert out == ""
    assert everything_in(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("classes=[cat]",), "classes=['cat']: expected at least two to tell apart"),
        (("classes=[cat, cat]",), "a class is given twice: cat"),
        (
            ("classes=[cat, dog]", "template=photo"),
            "template 'photo' has no {} for the class name",
        ),
        (
            ("classes=[cat, dog]", "template=a {}", "templates=['b {}']"),
            "template and templates are both given: keep one of them",
        ),
    ],
)
def test_what_zero_shot_prediction_refuses(run_cli, animals, tiny_model, words, expected):
    picture = animals / "test" / "cat" / "0.png"
    code, out, err = run_cli("predict", picture, f"model={tiny_model}", *words)
    assert (code, out) == (2, "")
    assert err == f"error: {expected}\n"
