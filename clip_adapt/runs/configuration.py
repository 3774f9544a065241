"""A command line becomes one checked configuration: YAML groups, then key=value overrides.

Every problem of a command line is collected and shown at once.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clip_adapt.backbone.devices import resolve_device
from clip_adapt.backbone.weights.plan import require_known
from clip_adapt.config import cards, options, yamls
from clip_adapt.config.cards import DataCard, ModelCard
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data import catalog
from clip_adapt.data.task import GENERAL_TEMPLATES
from clip_adapt.errors import InputError
from clip_adapt.method.contract import Method
from clip_adapt.method.finding import Found, find, names
from clip_adapt.runs import captioned
from clip_adapt.system.files import resource

AUTO = "auto"  # in place of a method: choose one on the support set


@dataclass(frozen=True)
class Config:
    """A whole, checked configuration.

    ``cpu_recipe`` holds the general options that differ from the method's published recipe because
    this runs on a CPU, ``published`` what the recipe has in their place.
    ``candidates`` are those that ``method=auto`` chooses among; none for any other method.
    """

    options: RunOptions
    method: Found
    method_options: dict[str, Any]
    dataset: DataCard
    model: ModelCard
    given: dict[str, str]
    cpu_recipe: dict[str, Any] = field(default_factory=dict)
    published: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[Config, ...] = ()

    def to_yaml(self) -> str:
        """Return everything resolved as YAML; its first line is the command that gives it."""
        words = [f"{key}={value}" for key, value in self.given.items()]
        command = shlex.join(["python", "-m", "clip_adapt.train", *words])
        return f"# {command}\n{yamls.dump(self.resolved())}"

    def resolved(self) -> dict[str, Any]:
        """Return everything resolved: the options of method, data set and model, then the rest."""
        resolved = asdict(self.options)
        resolved["method"] = {"name": self.method.name, **self.method_options}
        dataset = asdict(self.dataset)
        resolved["dataset"] = {**dataset, **dataset.pop("options")}
        del resolved["dataset"]["options"]
        resolved["model"] = asdict(self.model)
        return resolved


def compose(given: Mapping[str, Any]) -> Config:
    """Return the configuration of ``key=value`` pairs (text from a command line, or typed values).

    Raises:
        InputError: with one line for each problem.
    """
    tree = _nested(given)
    defaults = yamls.read(resource("configs") / "train.yaml")
    chosen = {g: str(tree[g].pop("", defaults[g])) for g in ("method", "dataset", "model")}
    if chosen["method"] == AUTO:
        return _auto(given, list(tree["method"]))
    problems: list[str] = []
    method = _try(problems, find, chosen["method"])
    recipe = _recipe(method) if method else {}
    method_options = _method_options(problems, method, recipe, tree["method"]) if method else {}
    contrastive = str(tree["general"].get("objective", defaults["objective"])) == "contrastive"
    if contrastive:
        recipe = {**recipe, **yamls.read(resource("configs") / "contrastive.yaml"), "cpu": None}
    dataset = _try(problems, _dataset, chosen["dataset"], tree["dataset"], contrastive)
    model = _try(problems, _model, chosen["model"], tree["model"])
    cpu_recipe = _cpu_recipe(recipe, {**defaults, **tree["general"]}, tree["general"])
    general = {**defaults, **recipe, **cpu_recipe, **tree["general"], **chosen}
    checked, wrong = options.validate(general, options.of_dataclass(RunOptions))
    problems += wrong or (_contradictions(checked) + captioned.contradictions(checked, dataset))
    if problems or not (method and dataset and model):
        raise InputError("\n".join(problems))
    dataset = _override_templates(dataset, checked)
    text = {key: _as_text(value) for key, value in given.items()}
    return Config(
        RunOptions(**checked),
        method,
        method_options,
        dataset,
        model,
        text,
        cpu_recipe,
        {key: {**defaults, **recipe}[key] for key in cpu_recipe},
    )


def _auto(given: Mapping[str, Any], own: list[str]) -> Config:
    problems = [f"method.{key}: method=auto takes no options of a method" for key in own]
    found = []
    for name in names():
        if find(name).cls.quick:
            others = {k: v for k, v in given.items() if not k.startswith("method.")}
            config = _try(problems, compose, {**others, "method": name})
            found.append(config)
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    first, text = found[0], {key: _as_text(value) for key, value in given.items()}
    o = replace(first.options, method=AUTO)
    auto = Found(AUTO, Method)
    return replace(
        first, options=o, method=auto, method_options={}, given=text, candidates=(*found,)
    )


def _nested(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    # {"shots": "4", "method": "coop", "method.n_ctx": "8"} becomes
    # {"general": {"shots": "4"}, "method": {"": "coop", "n_ctx": "8"}, ...}
    tree: dict[str, dict[str, Any]] = {"general": {}, "method": {}, "dataset": {}, "model": {}}
    for key, value in given.items():
        group, _, rest = key.partition(".")
        if group in tree and group != "general":
            _set(tree[group], rest, value)
        else:
            _set(tree["general"], key, value)
    return tree


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    head, dot, rest = key.partition(".")
    if dot:
        nested = tree.setdefault(head, {})
        if isinstance(nested, dict):
            _set(nested, rest, value)
            return
    tree[key] = value


def _dataset(name: str, overrides: dict[str, Any], contrastive: bool) -> DataCard:
    wants: catalog.Gives = "captions" if contrastive else "classes"
    nested = {k: v for k, v in overrides.items() if isinstance(v, dict)}
    if not nested:
        return catalog.find_dataset(name, overrides, wants=wants)
    # dataset.per_class.train=8 changes one entry of a map and keeps the others.
    base = catalog.find_dataset(name, wants=wants)
    current = {**asdict(base), **base.options}
    merged = {k: {**(current.get(k) or {}), **v} for k, v in nested.items()}
    return catalog.find_dataset(name, {**overrides, **merged}, wants=wants)


def _model(name: str, overrides: dict[str, Any]) -> ModelCard:
    card = cards.find_model(name, overrides)
    require_known(card)
    return card


def _recipe(method: Found) -> dict[str, Any]:
    path = cards.card_path("method", method.name)
    return yamls.read(path) if path.is_file() and method.file is None else {}


def _method_options(
    problems: list[str], method: Found, recipe: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    values = {**(recipe.pop("method", None) or {}), **given}
    schema = options.of_signature(method.cls)
    checked, wrong = options.validate(values, schema, "method.", f"method {method.name}")
    problems += wrong
    return checked


def _cpu_recipe(
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


def _contradictions(checked: dict[str, Any]) -> list[str]:
    problems = []
    if checked["template"] is not None and checked["templates"] is not None:
        problems.append("template and templates are both given: keep one of them")
    given = {"templates": [*(checked["templates"] or []), *filter(None, [checked["template"]])]}
    problems += [
        f"template {t!r} has no {{}} for the class name"
        for t in cards.templates_without_slot(given)
    ]
    if checked["calibration"] is not None and checked["conformal"] is None:
        problems.append("calibration is given without conformal: add conformal=0.1, or drop it")
    crosses = checked["protocol"] == "cross_dataset"
    if crosses and not checked["test_on"]:
        problems.append("protocol=cross_dataset needs test_on=DATASET, or test_on=[ONE, OTHER]")
    if checked["test_on"] and not crosses:
        problems.append("test_on is given without protocol=cross_dataset: add it, or drop test_on")
    if isinstance(checked["epochs"], dict) and not checked["epochs"]:
        problems.append("epochs={}: expected at least one entry of shots: epochs")
    return problems


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


def _as_text(value: Any) -> str:
    # JSON is YAML on one line, which the first line of config.yaml has to be.
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
