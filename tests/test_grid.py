"""What a sweep's command line expands to."""

import pytest

from clip_adapt.config.values import TypedText
from clip_adapt.errors import InputError
from clip_adapt.runs.output import finished
from clip_adapt.sweeps import grid


@pytest.fixture
def expand(animals, tiny_model):
    """A function that expands words as a command line gives them."""

    def expanded(*words, output=None):
        pairs = (word.partition("=") for word in words)
        given = {"dataset": animals, "model": tiny_model}
        given |= {key: value for key, _, value in pairs}
        return grid.expand({key: TypedText(value) for key, value in given.items()}, output)

    return expanded


def settings(cells, *names):
    return [tuple(getattr(cell.config.options, name) for name in names) for cell in cells]


def test_every_combination_in_the_order_of_the_command_line(expand):
    _, cells = expand("method=[zero_shot,coop]", "shots=[1,4]", "seed=[1,2,3]")
    expected = [(m, s, d) for m in ("zero_shot", "coop") for s in (1, 4) for d in (1, 2, 3)]
    assert settings(cells, "method", "shots", "seed") == expected
    assert cells[0].values == {"method": "zero_shot", "shots": 1, "seed": 1}
    assert len({cell.folder for cell in cells}) == 12


def test_the_folder_of_a_sweep(expand):
    top, cells = expand("shots=[1,2]")
    assert top.as_posix() == "runs/animals/sweep"
    assert all(cell.folder.parent == top for cell in cells)
    top, cells = expand("shots=2", output="elsewhere")
    assert (top.as_posix(), len(cells)) == ("elsewhere", 1)


def test_names_say_what_a_run_is(animals, tiny_model):
    given = {"method": ["coop"], "dataset": "eyes", "model": "lite", "shots": [4], "seed": 2}
    _, (cell,) = grid.expand({**given, "method.n_ctx": 8, "lr": 0.01})
    assert cell.folder.name == "eyes-coop-lite-4shot-seed2-lr=0.01-n_ctx=8"
    _, (other,) = grid.expand({**given, "method.ctx_init": "a photo of a", "device": "cpu"})
    assert other.folder.name.startswith("eyes-coop-lite-4shot-seed2-")
    assert " " not in other.folder.name and "cpu" not in other.folder.name


def test_options_of_one_method_pass_the_others_by(expand):
    _, cells = expand("method=[zero_shot,coop]", "method.n_ctx=[2,4]")
    assert [(c.config.method.name, c.config.method_options.get("n_ctx")) for c in cells] == [
        ("zero_shot", None),
        ("coop", 2),
        ("coop", 4),
    ]
    assert cells[0].values == {"method": "zero_shot"}


def test_an_option_that_takes_a_list_is_varied_by_a_list_of_lists(expand):
    _, (one,) = expand("templates=['a {}.', 'the {}.']")
    assert one.config.dataset.templates == ["a {}.", "the {}."] and one.values == {}
    _, cells = expand("templates=[['a {}.'], ['the {}.', 'my {}.']]")
    assert [c.config.dataset.templates for c in cells] == [["a {}."], ["the {}.", "my {}."]]
    _, cells = expand("template=['a {}.', 'the {}.']")
    assert [c.config.dataset.templates for c in cells] == [["a {}."], ["the {}."]]


def test_every_run_can_be_repeated_by_its_own_command(expand):
    _, cells = expand("method=coop", "method.n_ctx=[2]", "shots=[1]", "seed=3", output="here")
    first = cells[0].config.to_yaml().splitlines()[0]
    assert first.endswith(f"method=coop method.n_ctx=2 shots=1 seed=3 output={cells[0].folder}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["shotz=[1,2]"], "unknown option 'shotz' - did you mean 'shots'?"),
        (["method=[coop]", "method.n_ctz=[1,2]"], "unknown option 'method.n_ctz' in method coop"),
        (["method=[coop,copo]"], "unknown method 'copo' - did you mean 'coop'?"),
        (["shots=[1,many]"], "shots=many: expected a whole number, at least 1"),
        (["shots=[]"], "shots=[]: expected at least one value"),
        (["method=[zero_shot,coop]", "method.n_ctx=[0,-1]"], "method.n_ctx=0 in method coop"),
    ],
)
def test_what_a_sweep_refuses(expand, words, expected):
    with pytest.raises(InputError) as caught:
        expand(*words)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(expected) for line in lines), lines
    assert len(lines) == len(set(lines))


def test_differences_name_what_changed_and_leave_out_what_changes_no_number(expand):
    _, (before,) = expand("method=coop", "method.n_ctx=2", output="here")
    before.folder.mkdir(parents=True)
    (before.folder / "config.yaml").write_text(before.config.to_yaml())
    _, (same,) = expand("method=coop", "method.n_ctx=2", "cache=false", "report=false", output="h")
    assert finished.find_differences(same.config, before.folder) == []
    _, (other,) = expand("method=coop", "method.n_ctx=4", "lr=0.5", "epochs={1: 7}", output="here")
    assert finished.find_differences(other.config, before.folder) == [
        "epochs.1: 50, now 7",
        "epochs.16: 200, now nothing",
        "epochs.2: 100, now nothing",
        "epochs.4: 100, now nothing",
        "epochs.8: 200, now nothing",
        "lr: 0.002, now 0.5",
        "method.n_ctx: 2, now 4",
    ]


@pytest.mark.parametrize(("dataset", "name"), [(".", "pets"), ("..", "all"), ("./", "pets")])
def test_a_sweep_on_the_folder_one_is_in_has_its_name(dataset, name, tmp_path, monkeypatch):
    (tmp_path / "all" / "pets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "all" / "pets")
    top, cells = grid.expand(
        {"method": "zero_shot", "dataset": TypedText(dataset), "model": "lite"}
    )
    assert top.as_posix() == f"runs/{name}/sweep"
    assert [cell.folder.name.split("-")[0] for cell in cells] == [name]
