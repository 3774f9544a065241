"""Several processes that train one run: what they learn, what they leave, how they end together."""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from test_captions import Turn, items_of
from test_hooks import Penalized

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data.captions import Captions
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError
from clip_adapt.evaluation import resampling
from clip_adapt.method.finding import find_method
from clip_adapt.runs.configuration import compose
from clip_adapt.runs.run import run
from clip_adapt.system.launch import joining, processes
from clip_adapt.system.launch.processes import LostProcessError, QuietError
from clip_adapt.training.examples import Examples, compute_logits
from clip_adapt.training.loop import train
from clip_adapt.training.pair_step import PairStep
from clip_adapt.training.recipe import Recipe

ROOT = Path(__file__).parent.parent
NAMES = ("cat", "dog", "eel")
COUNT = 11  # images, in batches of 4, 4 and 3: two and three processes share them unevenly
RECIPE = Recipe(epochs=2, batch_size=4, lr=0.05, class_balanced=True, label_smoothing=0.1)
RUNS = {
    "coop": {"method": "coop", "epochs": 2},
    "linear_probe": {"method": "linear_probe"},
    "lora": {"method": "lora", "method.dropout": 0, "epochs": 2, "optimizer": "sgd"},
    "auto": {"method": "auto", "guard": True},
}


class Drawn(torch.utils.data.Dataset):
    """Pictures of noise as pixels, in double precision."""

    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.pixels = torch.randn(COUNT, 3, 32, 32, generator=generator, dtype=torch.float64)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.pixels[index], index % 3


def make_features(backbone):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(COUNT, 1, backbone.embed_dim, generator=generator, dtype=torch.float64)
    return F.normalize(z, dim=-1)


def train_classes(backbone):
    """Features, with a loss of classes in balance and a penalty on the features of the batch."""
    method = Penalized(backbone, Task(NAMES)).double()
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] * 2)
    curve = train(method, Examples(make_features(backbone), labels), RECIPE)
    return method.state_dict(), curve


def train_pixels(backbone):
    """The image tower; AdamW, accumulated gradients, a clipped norm, the best epoch by val."""
    torch.manual_seed(0)
    method = find_method("lora").cls(backbone, Task(NAMES), dropout=0.0)
    recipe = Recipe(
        epochs=3,
        batch_size=4,
        lr=0.01,
        optimizer="adamw",
        accumulate=2,
        clip_norm=0.1,
        select="val",
    )
    examples = Examples(Drawn(), torch.arange(COUNT) % 3)
    curve = train(method, examples, recipe, val=examples)
    return method.state_dict() | {"logits": compute_logits(method, examples)}, curve


def train_pairs(backbone):
    """Captions, every image against all texts of the batch."""
    captions = Captions.of(
        items_of(*([f"number {i % 5}", f"thing {i}"] for i in range(COUNT))),
        [str(i) for i in range(COUNT)],
    )
    method = Turn(backbone, Task(()))
    make_step = functools.partial(PairStep, captions=captions, val_captions=captions, dedup=True)
    examples = Examples(make_features(backbone), torch.arange(COUNT))
    recipe = Recipe(epochs=3, batch_size=4, lr=0.05, select="val")
    curve = train(method, examples, recipe, val=examples, make_step=make_step)
    return method.state_dict(), curve


TRAININGS = {"classes": train_classes, "pixels": train_pixels, "pairs": train_pairs}


def options_of(name, folder, model):
    usual = {"dataset": str(folder / "animals"), "model": str(model), "shots": 4}
    return usual | {"output": f"out/{name}", "tensorboard": False} | RUNS[name]


def take_part(rank, count, port, card, folder, model):
    """Be one of ``count`` processes: train, run, be refused, be left alone."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(folder / f"{count}-{rank}")
    torch.set_num_threads(1)
    resampling.RESAMPLES = 20
    backbone = Backbone.from_card(card, device="cpu").double()
    found = {}
    with joining.join_processes(cpu=True):
        assert (processes.read_rank(), processes.count_processes()) == (rank, count)
        for name, work in TRAININGS.items():
            found[name] = work(backbone)
        found["main"] = processes.run_on_main(lambda: rank)
        found["shared"] = processes.share_work(lambda part: [i * i for i in part], range(7))
        found["refused"] = [refuse_on_main(), refuse_in_part(rank)]
    torch.save(found, folder / f"{count}-{rank}.pt")
    for name in RUNS if count == 2 else ["coop"]:
        made = run(compose(options_of(name, folder, model)))
        Path(f"{name}.json").write_text(json.dumps(made.metrics))
    found = refuse_run(folder, model)
    Path("refused.json").write_text(json.dumps(found))
    with pytest.raises(InputError) as caught, joining.join_processes(cpu=True):
        if rank == count - 1:
            os._exit(0)  # killed
        processes.gather(rank)
    Path("lost.txt").write_text(f"{type(caught.value.__context__).__name__} {caught.value}")


def refuse_on_main():
    def refuse():
        raise InputError("no")

    with pytest.raises(InputError) as caught:
        processes.run_on_main(refuse)
    return type(caught.value).__name__, str(caught.value)


def refuse_in_part(rank):
    def refuse(part):
        if rank == 1:
            raise InputError("not this part")
        return part

    with pytest.raises(InputError) as caught:
        processes.share_work(refuse, range(7))
    return type(caught.value).__name__, str(caught.value)


def refuse_run(folder, model):
    """A run that every process refuses, and one whose folder the main process cannot have."""
    said = []
    Path("taken").write_text("a file")
    for output in ("out", "taken/out"):
        wrong = options_of("coop", folder, model) | {"output": output}
        wrong |= {"select": "val"} if output == "out" else {}
        try:
            run(compose(wrong))
            said.append("nothing")
        except InputError as error:
            said.append(type(error).__name__)
    return said


def start(count, card, folder, model):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(count):
        (folder / f"{count}-{rank}").mkdir()
    torch.multiprocessing.spawn(
        take_part, (count, port, card, folder, model), nprocs=count, join=True
    )


@pytest.fixture(scope="module")
def place(make_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    make_folder(folder / "animals", splits=("train", "test"), size=32)
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def launched(request, place, tiny_card):
    """The folder of what so many processes have done, and their number."""
    model = place / "tiny.yaml"
    model.write_text(
        f"architecture: {tiny_card.architecture}\npretrained: {tiny_card.pretrained}\n"
    )
    start(request.param, tiny_card, place, model)
    return place, request.param


def read(folder, count):
    return [torch.load(folder / f"{count}-{r}.pt", weights_only=True) for r in range(count)]


@pytest.mark.parametrize("name", TRAININGS)
def test_processes_learn_what_one_learns(name, launched, double_backbone):
    folder, count = launched
    expected, curve = TRAININGS[name](double_backbone)
    assert curve[-1]["loss"] != curve[0]["loss"]
    for found in read(folder, count):
        state, rows = found[name]
        assert state.keys() == expected.keys()
        for key, tensor in expected.items():
            # Logits come in float32.
            close = {"rtol": 1e-9, "atol": 1e-10} if tensor.dtype == torch.float64 else {}
            torch.testing.assert_close(state[key], tensor, **close)
        for row, wanted in zip(rows, curve, strict=True):
            assert row == pytest.approx(wanted, rel=1e-5)


def test_work_is_shared_and_refusals_are_everybodys(launched):
    folder, count = launched
    for rank, found in enumerate(read(folder, count)):
        assert found["main"] == 0
        assert found["shared"] == [0, 1, 4, 9, 16, 25, 36]
        on_main, in_part = found["refused"]
        assert on_main == ("QuietError" if rank else "InputError", "no")
        assert in_part == ("InputError" if rank == 1 else "QuietError", "not this part")


def test_one_run_is_written_by_one_process_and_equals_that_of_one(
    launched, place, monkeypatch, everything_in
):
    folder, count = launched
    monkeypatch.setattr(resampling, "RESAMPLES", 20)
    for name in RUNS if count == 2 else ["coop"]:
        alone = run(compose(options_of(name, folder, place / "tiny.yaml")))
        together = folder / f"{count}-0" / "out" / name
        assert everything_in(together) == everything_in(f"out/{name}")
        ours, theirs = (
            load_file(p / "adapter/adapter.safetensors") for p in (Path("out") / name, together)
        )
        for key, tensor in ours.items():
            torch.testing.assert_close(theirs[key], tensor, rtol=0, atol=1e-5)
        assert (together / "support.jsonl").read_text() == Path(
            f"out/{name}/support.jsonl"
        ).read_text()
        told = [(folder / f"{count}-{r}" / f"{name}.json").read_text() for r in range(count)]
        assert len(set(told)) == 1
        for metric, found in json.loads(told[0])["test"].items():
            assert found == pytest.approx(alone.metrics["test"][metric], abs=1e-5)
    assert not any((folder / f"{count}-{rank}" / "out").exists() for rank in range(1, count))


def test_what_stops_one_stops_all_and_one_says_why(launched):
    folder, count = launched
    told = [json.loads((folder / f"{count}-{r}/refused.json").read_text()) for r in range(count)]
    for kinds in zip(*told, strict=True):
        assert sorted(kinds) == ["InputError"] + ["QuietError"] * (count - 1)


def test_a_process_that_is_gone_ends_the_others(launched):
    folder, count = launched
    said = [(folder / f"{count}-{rank}" / "lost.txt") for rank in range(count - 1)]
    for text in (file.read_text() for file in said):
        assert "another process of this run has ended" in text
        assert "run the same command again" in text


def test_alone_everything_is_done_here():
    assert processes.is_main() and processes.count_processes() == 1
    assert processes.share_work(lambda part: [i + 1 for i in part], [1, 2]) == [2, 3]
    assert processes.run_main_first(lambda: 5) == 5
    with joining.join_processes(cpu=True):  # no launcher
        assert processes.is_alone()


def test_who_speaks(monkeypatch):
    monkeypatch.setattr(joining, "_has_joined", type("Not", (), {"is_set": lambda self: False})())
    assert joining.speaks(InputError("x")) and not joining.speaks(QuietError("x"))
    monkeypatch.setenv("RANK", "1")
    assert not joining.speaks(InputError("x"))
    monkeypatch.setattr(joining, "_has_joined", type("Yes", (), {"is_set": lambda self: True})())
    assert joining.speaks(InputError("x")) and joining.speaks(LostProcessError("x"))


def test_processes_that_do_not_find_one_another_are_told_how_to_be_launched(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(InputError, match="torchrun --nproc_per_node"),
        joining.join_processes(cpu=True),
    ):
        pass


@pytest.mark.parametrize("name", joining.SIZES)
def test_a_size_that_is_no_number_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "two")
    with pytest.raises(InputError, match=f"{name}='two'"), joining.join_processes(cpu=True):
        pass


def test_a_rank_that_is_no_number_silences_nobody(monkeypatch):
    monkeypatch.setenv("RANK", "x")
    assert joining.is_first()


CHILD = """
import os, signal, sys, time
from clip_adapt.system.launch import joining
signal.signal(signal.SIGTERM, lambda *_: (print("asked to end", flush=True), os._exit(0)))
joining.end_with_launcher()
print("ready", flush=True)
time.sleep(100)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.mark.skipif(os.name != "posix", reason="a parent's death is not seen elsewhere")
def test_a_killed_launcher_leaves_no_process_behind():
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "none", "PYTHONPATH": str(ROOT)}
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, CHILD], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None
    with launcher.stdout as said:
        assert said.readline() == "ready\n"
        launcher.kill()
        assert said.read() == "asked to end\n"  # and the pipe closes: nobody holds it any more
    launcher.wait()


def launch(count, *words):
    """Start ``torchrun`` with so many processes; what they say goes into the file ``said``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(count), "-m", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with Path("said").open("w") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)


def list_children(launcher, word):
    """Return the processes that a launcher has started, oldest first."""
    found = psutil.Process(launcher.pid).children(recursive=True)
    return [p for p in found if word in p.cmdline()]


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(Path("said").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_a_killed_process_ends_a_launch_and_the_same_command_goes_on(count, place, tiny_model):
    words = [f"dataset={place / 'animals'}", f"model={tiny_model}", "shots=4", "epochs=150"]
    words += ["method=lora", "batch_size=4", "checkpoint=0.3", "report=false", "tensorboard=false"]
    whole = launch(count, "clip_adapt.train", *words, "output=whole")
    assert whole.wait(timeout=300) == 0, Path("said").read_text()

    killed = launch(count, "clip_adapt.train", *words, "output=out")
    wait_for(lambda: Path("out/checkpoint").exists())
    children = list_children(killed, "clip_adapt.train")
    children[-1].kill()
    assert killed.wait(timeout=60) != 0
    assert not any(child.is_running() for child in children)
    said = Path("said").read_text()
    told = ("another process of this run has ended", "ended by SIGTERM;")
    assert sum(said.count(line) for line in told) <= count - 1 and any(t in said for t in told)

    again = launch(count, "clip_adapt.train", *words, "output=out")
    assert again.wait(timeout=300) == 0
    assert "going on from step" in Path("said").read_text()
    ours, theirs = (load_file(f"{name}/adapter/adapter.safetensors") for name in ("out", "whole"))
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert not Path("out/checkpoint").exists()


@pytest.mark.slow
def test_a_sweep_whose_launcher_is_killed_leaves_nobody_and_finishes(place, tiny_model):
    words = [f"dataset={place / 'animals'}", f"model={tiny_model}", "shots=1", "method=coop"]
    words += ["seed=[1,2,3,4]", "epochs=[300,301]", "report=false", "tensorboard=false"]
    killed = launch(2, "clip_adapt.sweep", *words, "output=out")
    wait_for(lambda: Path("out/results.csv").exists())
    children = list_children(killed, "clip_adapt.sweep")
    assert len(children) == 2
    killed.kill()
    killed.wait()
    assert psutil.wait_procs(children, timeout=60)[1] == []
    again = launch(2, "clip_adapt.sweep", *words, "output=out")
    assert again.wait(timeout=300) == 0, Path("said").read_text()
    assert len(Path("out/results.csv").read_text().splitlines()) == 1 + 8
