"""Weights in every format: loaded, compared with their source, or refused with the reason."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile

import families
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.backbone.weights import checkpoint, hub, plan, torchscript
from clip_adapt.config.cards import ModelCard
from clip_adapt.errors import InputError

LITE = "4011bfa3c572c6bb1e45960ba245f02516c34baa7a39a14538875cc620701a74"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The card of a tiny QuickGELU ViT; its weights are the source of every other format."""
    return families.write("vit", tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def state(tiny):
    return load_file(tiny.pretrained)


@pytest.fixture(scope="session")
def fingerprint(tiny):
    return Backbone.from_card(tiny, device="cpu").fingerprint


def load(tiny, pretrained):
    return Backbone.from_card(
        ModelCard(tiny.architecture, str(pretrained), name="tiny"), device="cpu"
    )


def test_the_embedded_backbone_is_the_one_that_deltas_are_bound_to():
    assert Backbone.load("lite", device="cpu").fingerprint == LITE


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_a_plain_state_dict(tiny, state, fingerprint, tmp_path, suffix):
    file = tmp_path / f"plain{suffix}"
    torch.save(state, file)
    assert load(tiny, file).fingerprint == fingerprint


def test_a_training_checkpoint_of_a_parallel_run(tiny, state, fingerprint, tmp_path):
    file = tmp_path / "epoch_3.pt"
    held = {f"module.{name}": tensor for name, tensor in state.items()}
    adam = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 3, "name": "run", "state_dict": held, "optimizer": adam}, file)
    assert load(tiny, file).fingerprint == fingerprint


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "clip."]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_prefix_that_all_names_share(tiny, state, fingerprint, tmp_path, prefix, suffix):
    held = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    file = tmp_path / f"compiled{suffix}"
    save_file(held, file) if suffix == ".safetensors" else torch.save(held, file)
    assert load(tiny, file).fingerprint == fingerprint


@pytest.mark.parametrize("key", ["model", "model_state_dict", "ema", "state_dict"])
def test_a_lone_state_dict_under_any_key(tiny, state, fingerprint, tmp_path, key):
    adam = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}
    torch.save({"epoch": 3, key: state, "optimizer": adam}, tmp_path / "epoch_3.pt")
    assert load(tiny, tmp_path / "epoch_3.pt").fingerprint == fingerprint


def test_several_state_dicts_are_not_guessed_at(tiny, state, tmp_path):
    torch.save({"student": state, "teacher": state}, tmp_path / "both.pt")
    with pytest.raises(InputError, match="several state dicts, student, teacher: save the one"):
        load(tiny, tmp_path / "both.pt")


@pytest.mark.parametrize(
    ("rename", "reason"),
    [
        ({"visual.": "vision_model.", "text.": "text_model."}, "names of transformers: give the f"),
        ({"visual.": "student.v.", "text.": "student.t."}, "begin with the prefix 'student'"),
        ({"text.": "text.base.lora_A."}, "LoRA weights that are not merged"),
    ],
)
def test_the_names_of_another_library_are_told(tiny, state, tmp_path, rename, reason):
    held = {}
    for name, tensor in state.items():
        for old, new in rename.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        held[name] = tensor
    torch.save(held, tmp_path / "other.pt")
    with pytest.raises(InputError, match=reason):
        load(tiny, tmp_path / "other.pt")


def test_names_of_before_the_towers_were_apart(tiny, state, fingerprint, tmp_path):
    old = {name.removeprefix("text."): tensor for name, tensor in state.items()}
    old["logit_scale"] = old["logit_scale"].reshape(1)
    save_file(old, tmp_path / "old.safetensors")
    assert load(tiny, tmp_path / "old.safetensors").fingerprint == fingerprint


@pytest.fixture(scope="session")
def archive(tiny, state, tmp_path_factory):
    """A TorchScript archive as OpenAI wrote them: one module, three sizes beside the weights."""
    model = open_clip.CLIP(**families.FAMILIES["vit"]).eval()
    model.load_state_dict({name.removeprefix("text."): t for name, t in state.items()})
    for name, value in {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}.items():
        delattr(model, name) if hasattr(model, name) else None
        model.register_buffer(name, torch.tensor(value))
    file = tmp_path_factory.mktemp("archive") / "ViT.pt"
    inputs = {"encode_image": torch.randn(1, 3, 32, 32), "encode_text": torch.zeros(1, 77).long()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace_module(model, inputs, check_trace=False), file)
    return file


def test_openais_archive_is_read_without_running_it(tiny, archive, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the archive's code was loaded")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    loaded = load(tiny, archive).model.state_dict()
    source = Backbone.from_card(tiny, device="cpu").model.state_dict()
    assert loaded.keys() == source.keys()
    assert all(torch.equal(loaded[name], source[name]) for name in source)


def test_openais_archive_on_a_gelu_configuration(archive, tmp_path):
    config = tmp_path / "gelu.json"
    config.write_text(json.dumps({**families.FAMILIES["vit"], "quick_gelu": False}))
    with pytest.raises(InputError, match='trained with QuickGELU: set "quick_gelu": true in'):
        Backbone.from_card(ModelCard(str(config), str(archive), name="gelu"))
    with pytest.raises(InputError, match="use model=ViT-B-32-quickgelu, otherwise"):
        Backbone.load("ViT-B-32", pretrained=str(archive))


def test_every_kind_of_tensor_of_an_archive(tmp_path):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            base = torch.arange(12.0)
            self.row = torch.nn.Parameter(base.reshape(3, 4)[1:, ::2])  # a view with an offset
            self.register_buffer("short", torch.randn(2).half())
            self.register_buffer("many", torch.arange(3))
            self.register_buffer("none", torch.empty(0))
            self.constant = torch.ones(2)  # neither a parameter nor a buffer
            self.labels = {"a": [1, 2], "b": [3]}
            self.pair = (True, 2.5)

        def forward(self, x):
            return x * self.row.sum() + self.constant.sum() + self.labels["a"][0] + self.pair[1]

    model, file = Odd(), tmp_path / "odd.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), file)
    found = torchscript.read_archive(file)
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(
        torch.equal(found[k], expected[k]) and found[k].dtype == expected[k].dtype for k in found
    )


def test_an_archive_with_an_unknown_instruction_is_refused(archive, tmp_path):
    evil = tmp_path / "evil.pt"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(evil, "w") as target:
        for name in source.namelist():
            code = (
                b"\x80\x02c__builtin__\nprint\n(S'run'\ntR." if name.endswith("data.pkl") else None
            )
            target.writestr(name, code or source.read(name))
    with pytest.raises(InputError, match="not a TorchScript archive that can be read as data"):
        torchscript.read_archive(evil)


class Payload:
    def __reduce__(self):
        return (open, ("executed", "w"))


def test_a_file_that_would_run_code_is_refused_and_not_run(tiny, state, tmp_path):
    file = tmp_path / "evil.pt"
    torch.save({**state, "payload": Payload()}, file)
    with pytest.raises(InputError, match=r"reading it would run code that it names: \S*open"):
        load(tiny, file)
    assert not (tmp_path / "executed").exists()


def test_what_does_not_fit_is_listed(tiny, state, tmp_path):
    wrong = {k: v for k, v in state.items() if k != "visual.proj"}
    wrong |= {"extra": torch.ones(1), "visual.class_embedding": torch.ones(3)}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError) as refused:
        load(tiny, tmp_path / "wrong.safetensors")
    assert "does not fit this architecture" in str(refused.value)
    for line in (
        "extra does not belong here",
        "visual.class_embedding is (3,) where (32,) is expected",
        "visual.proj is missing",
    ):
        assert line in str(refused.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_are_not_finite_are_named(tiny, state, tmp_path, value, suffix):
    wrong = {name: tensor.clone() for name, tensor in state.items()}
    for name in ("visual.proj", "text.token_embedding.weight"):
        wrong[name][3, 5] = value
    file = tmp_path / f"wrong.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(wrong, file)
    with pytest.raises(InputError) as refused:
        load(tiny, file)
    first, *names = str(refused.value).splitlines()
    assert f"{file} holds values that are not finite" in first
    assert names == ["  text.token_embedding.weight", "  visual.proj"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "not a known file of weights: expected one of .safetensors, .bin"),
        ("a.pt", b"x", "is damaged or not a file of torch"),
        ("a.safetensors", b"x", "is damaged or not a safetensors file"),
    ],
)
def test_other_files_say_why(tiny, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tiny, tmp_path / name)


def test_a_file_without_a_state_dict(tiny, tmp_path):
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(InputError, match="holds no state dict: expected names with tensors"):
        load(tiny, tmp_path / "empty.pt")


@pytest.fixture
def folder(tiny, tmp_path):
    """A model's folder as open_clip writes it."""
    place = tmp_path / "model"
    place.mkdir()
    held = {"model_cfg": families.FAMILIES["vit"], "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}
    (place / "open_clip_config.json").write_text(json.dumps(held))
    shutil.copy(tiny.pretrained, place / "open_clip_model.safetensors")
    return place


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_folder_brings_its_configuration(folder, tiny, fingerprint, prefix):
    alone = Backbone.load(f"{prefix}{folder}", device="cpu")
    given = load(tiny, f"{prefix}{folder}")
    assert alone.fingerprint == given.fingerprint == fingerprint
    assert list(alone.transform["mean"]) == [0.1, 0.2, 0.3]


def test_a_folder_without_its_weights_or_configuration(folder, tmp_path):
    random = Backbone.load(str(folder), pretrained="random", device="cpu")
    assert random.embed_dim == 24
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no files of weights, expected open_clip_model"):
        Backbone.load(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is not a model's folder: expected"):
        Backbone.load(str(tmp_path / "empty"))
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        Backbone.load(str(folder))


def test_a_folder_of_another_architecture_is_refused(folder):
    with pytest.raises(InputError, match="another architecture than 'ViT-B-32': embed_dim is"):
        Backbone.load("ViT-B-32", pretrained=str(folder))


@pytest.fixture
def cached(folder, tmp_path, monkeypatch):
    """A function that puts a folder into the hub's cache, where it is found offline."""
    from huggingface_hub import constants, file_download

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(cache))

    def put(source, repository):
        place = cache / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        shutil.copytree(source, place / "snapshots" / ("0" * 40))

    return put


def test_a_repository_of_the_hub(cached, folder, fingerprint):
    cached(folder, "someone/tiny")
    assert Backbone.load("hf-hub:someone/tiny", device="cpu").fingerprint == fingerprint


def test_without_a_network_it_says_which_file_and_where(cached, tmp_path):
    with pytest.raises(InputError) as refused:
        Backbone.load("hf-hub:someone/else")
    message = str(refused.value)
    assert "\n" not in message
    for part in (
        "open_clip_config.json of someone/else is missing here and the hub cannot be reached",
        str(tmp_path / "hub" / "models--someone--else"),
        "`hf download someone/else --local-dir DIR`",
        "model=DIR",
    ):
        assert part in message


def test_a_tag_without_a_network_says_what_to_fetch(cached, run_cli, animals):
    code, _, printed = run_cli("train", f"dataset={animals}", "model=vit-b-32")
    assert code == 2
    assert "open_clip_model.safetensors of timm/vit_base_patch32_clip_224.openai is" in printed
    assert "give model.pretrained=DIR/open_clip_model.safetensors" in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_tag_that_lies_elsewhere_than_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    facts = {"url": "https://example.org/models/abc-0000.pt"}
    with pytest.raises(InputError, match=r"abc-0000.pt is missing here and cannot be fetched"):
        plan._fetch_tag(facts)
    place = tmp_path / ".cache" / "clip" / "abc-0000.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"there")
    assert plan._fetch_tag(facts) == place


def test_a_hub_id_that_cannot_be_one():
    with pytest.raises(InputError, match="is not a hub id: expected owner/name"):
        hub.fetch("no id at all", ("x",), "")


def test_random_weights_are_only_for_those_who_ask(tiny):
    with pytest.raises(InputError, match=r"needs weights: give model.pretrained=TAG .*or random"):
        Backbone.load("ViT-B-16")
    assert load(tiny, "random").embed_dim == 24


def test_parts_in_several_files_are_put_together(state, tmp_path):
    names = sorted(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: state[n] for n in part}, tmp_path / file)
    index = {name: file for file, part in halves.items() for name in part}
    read = checkpoint.read_shards(tmp_path / "index.json", index).tensors
    assert read.keys() == state.keys() and all(torch.equal(read[n], state[n]) for n in names)


def test_a_part_that_holds_one_tower_keeps_its_names(state, tmp_path):
    towers = {"a.safetensors": "visual.", "b.safetensors": "text.", "c.safetensors": "logit"}
    index = {n: file for file, head in towers.items() for n in state if n.startswith(head)}
    for file in towers:
        save_file({n: state[n] for n in state if index[n] == file}, tmp_path / file)
    read = checkpoint.read_shards(tmp_path / "index.json", index).tensors
    assert read.keys() == state.keys()
