"""A command line becomes one checked configuration: YAML groups, then key=value overrides.

Every problem of a command line is collected and shown at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clip_adapt.backbone.devices import resolve_device
from clip_adapt.backbone.weights.plan import require_known
from clip_adapt.config import cards, options, values, yamls
from clip_adapt.config.cards import DataCard, ModelCard
from clip_adapt.config.given import GROUPS, CardName, flatten, nest, write_values
from clip_adapt.config.run_options import RENAMED, RunOptions
from clip_adapt.data import catalog
from clip_adapt.data.source import Gives
from clip_adapt.data.task import GENERAL_TEMPLATES
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import Found, find_method, list_methods
from clip_adapt.objectives import Objective, find_objective, list_objectives
from clip_adapt.objectives._finding import FoundObjective
from clip_adapt.runs.contradictions import find_contradictions
from clip_adapt.runs.recipes import read_recipe
from clip_adapt.system.files import hash_file, locate_resource
from clip_adapt.system.reading import make_path
from clip_adapt.system.text.showing import is_utf8, show_line, write_command

WANTED = {
    "classes": "a folder of class folders, or a table with an image and a label column",
    "captions": "a table with an image and a caption column (dataset=pairs.csv)",
}
AUTO = "auto"  # in place of a method: choose one on the support set


@dataclass(frozen=True)
class Config:
    """A whole, checked configuration.

    ``cpu_recipe`` holds the general options that differ from the method's published recipe because
    this runs on a CPU, ``published`` what the recipe has in their place.
    ``candidates`` are those that ``method=auto`` chooses among; none for any other method.
    ``others`` are the cards of the data sets that are needed besides ``dataset``, by name.
    ``code`` is the SHA-256 of every file of the user's own that is executed, by path, taken
    when it is loaded: an edit while the run is under way is not in the run.
    """

    options: RunOptions
    method: Found
    method_options: dict[str, Any]
    objective: Objective
    dataset: DataCard
    model: ModelCard
    given: dict[str, str]
    cpu_recipe: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[Config, ...] = ()
    others: dict[str, DataCard] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """Return everything resolved as YAML; its first line is the command that gives it."""
        return f"# {self.command}\n{yamls.dump_yaml(self.resolved())}"

    @property
    def command(self) -> str:
        """The command line that gives this run."""
        words = [f"{key}={value}" for key, value in self.given.items()]
        return write_command(["python", "-m", "clip_adapt.train", *words])

    def resolved(self) -> dict[str, Any]:
        """Return everything resolved: the options of method, data set and model, then the rest."""
        resolved = asdict(self.options)
        resolved["method"] = {"name": self.method.name, **self.method_options}
        dataset = asdict(self.dataset)
        resolved["dataset"] = {**dataset, **dataset.pop("options")}
        del resolved["dataset"]["options"]
        resolved["model"] = asdict(self.model)
        if self.others:  # named by a path, so what they say belongs to what was done
            resolved["others"] = {name: asdict(card) for name, card in self.others.items()}
        if self.code:
            resolved["code"] = self.code
        return resolved


def compose(given: Mapping[str, Any]) -> Config:
    """Return the configuration of ``key=value`` pairs (text from a command line, or typed values).

    Raises:
        InputError: with one line for each problem.
    """
    given = flatten(given)
    _require_utf8(given)
    tree = nest(given)
    defaults = yamls.read_yaml(locate_resource("configs") / "train.yaml")
    named = {group: tree[group].pop("", defaults[group]) for group in GROUPS}
    chosen = {group: str(name) for group, name in named.items()}
    if chosen["method"] == AUTO:
        return _compose_auto(given, list(tree["method"]))
    problems: list[str] = []
    method = _try(problems, find_method, chosen["method"])
    recipe = (_try(problems, read_recipe, method) if method else None) or {}
    method_options = (
        _check_method_options(problems, method, recipe, tree["method"]) if method else {}
    )
    wanted = str(tree["general"].get("objective", defaults["objective"]))
    found = _try(problems, find_objective, wanted)
    if found is None:
        raise InputError("\n".join(problems))
    own = found.read_recipe()
    if own:  # made for the objective, so a method's shorter one for a CPU is not wanted either
        recipe = {**recipe, **own, "cpu": None}
    gives = found.objective.gives
    dataset = _try(problems, _find_dataset, named["dataset"], tree["dataset"], gives)
    model = _try(problems, _find_model, chosen["model"], tree["model"])
    cpu_recipe = _shorten_recipe(recipe, {**defaults, **tree["general"]}, tree["general"])
    general = {**defaults, **recipe, **cpu_recipe, **tree["general"], **chosen}
    schema = options.read_fields(RunOptions)
    checked, wrong = options.validate(general, schema, renamed=RENAMED)
    problems += wrong or find_contradictions(checked) + found.objective.find_problems(
        checked, dataset
    )
    problems += _find_data_problems(found, dataset)
    if problems or not (method and dataset and model):
        raise InputError("\n".join(problems))
    o = RunOptions(**checked)
    others = {
        name: _try(problems, catalog.find_dataset, name, None, found.objective.gives)
        for name in found.objective.name_datasets(o)
    }
    if problems:
        raise InputError("\n".join(problems))
    dataset = _override_templates(dataset, checked)
    text = write_values(given)
    return Config(
        o,
        method,
        method_options,
        found.objective,
        dataset,
        model,
        text,
        values.resolve(cpu_recipe),
        values.resolve({key: {**defaults, **recipe}[key] for key in cpu_recipe}),
        others=others,
        code=_hash_code(o, method, (dataset, *others.values())),
    )


def _compose_auto(given: Mapping[str, Any], own: list[str]) -> Config:
    problems = [f"method.{key}: method=auto takes no options of a method" for key in own]
    found = []
    for name in list_methods():
        if find_method(name).cls.quick:
            others = {k: v for k, v in given.items() if not k.startswith("method.")}
            config = _try(problems, compose, {**others, "method": name})
            found.append(config)
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    first, text = found[0], write_values(given)
    o = replace(first.options, method=AUTO)
    problems = first.objective.find_problems(asdict(o), first.dataset)
    if problems:
        raise InputError("\n".join(problems))
    auto = Found(AUTO, Method)
    return replace(
        first, options=o, method=auto, method_options={}, given=text, candidates=(*found,)
    )


def _require_utf8(given: Mapping[str, Any]) -> None:
    # It stands in the files of the run, which are UTF-8: better said now than after the training.
    words = [f"{key}={options.show_value(value)}" for key, value in given.items()]
    wrong = [f"{show_line(word)} is not UTF-8: rename it" for word in words if not is_utf8(word)]
    if wrong:
        raise InputError("\n".join(wrong))


def _find_dataset(name: Any, overrides: dict[str, Any], wants: Gives) -> DataCard:
    if isinstance(name, CardName):
        return catalog.make_whole_card(name, overrides)
    return catalog.find_card(str(name), overrides, wants)


def _find_model(name: str, overrides: dict[str, Any]) -> ModelCard:
    card = cards.find_model(name, overrides)
    require_known(card)
    return card


def _check_method_options(
    problems: list[str], method: Found, recipe: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    values = {**(recipe.pop("method", None) or {}), **given}
    schema, renamed = options.read_signature(method.cls), method.cls.renamed_options
    checked, wrong = options.validate(values, schema, "method.", f"method {method.name}", renamed)
    problems += wrong
    return checked


def _shorten_recipe(
    recipe: dict[str, Any], values: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    # A recipe that takes a GPU may have a shorter form for a CPU. Lengths that the user gives win
    # over both, however they are counted.
    shorter = recipe.pop("cpu", None) or {}
    if "epochs" in given:
        recipe.pop("iterations_per_shot", None)
        shorter.pop("iterations_per_shot", None)
    try:
        on_cpu = resolve_device(str(values["device"])).type == "cpu"
    except InputError:
        return {}  # the backbone refuses this device in its own words
    return {k: v for k, v in shorter.items() if on_cpu and k not in given}


def _find_data_problems(found: FoundObjective, card: DataCard | None) -> list[str]:
    # A data set that gives its images something else than the objective learns from.
    if card is None or catalog.find_gives(card) == found.objective.gives:
        return []
    others = [n for n in list_objectives() if n != found.name]
    able = [n for n in others if find_objective(n).objective.gives == catalog.find_gives(card)]
    return [
        f"dataset {card.name} has {catalog.find_gives(card)} (source: {card.source}), and "
        f"objective={found.name} learns from {found.objective.gives}: use "
        f"objective={' or '.join(able)}, or {WANTED[found.objective.gives]}"
    ]


def _hash_code(o: RunOptions, method: Found, cards_read: Iterable[DataCard]) -> dict[str, str]:
    metrics = [o.metrics] if isinstance(o.metrics, str) else o.metrics or []
    named = [o.objective, *metrics, *(card.source for card in cards_read)]
    own = [make_path(name) for name in named if name.endswith(".py")]
    own += [method.file] if method.file else []
    return {str(path): hash_file(path) for path in own}


def _override_templates(card: DataCard, checked: dict[str, Any]) -> DataCard:
    own = [checked["template"]] if checked["template"] is not None else checked["templates"]
    templates = list(own or card.templates)
    if checked["ensemble"]:
        templates += [t for t in GENERAL_TEMPLATES if t not in templates]
    return replace(card, templates=templates)


def _try(problems: list[str], function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except InputError as error:
        problems += str(error).splitlines()
        return None
