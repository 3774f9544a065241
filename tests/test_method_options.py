"""A method's option that cannot work ends with a message that says what is allowed."""

from __future__ import annotations

import pytest

from clip_adapt.config.options import read_defaults
from clip_adapt.config.values import TypedText
from clip_adapt.errors import InputError
from clip_adapt.method import finding
from clip_adapt.runs import configuration

REFUSED = [
    ("adapter", "ratio", "1.5", "a number, at least 0 and at most 1"),
    ("adapter", "ratio", "-0.1", "a number, at least 0 and at most 1"),
    ("adapter", "depth", "9", "a whole number, at least 1 and at most 3"),
    ("adapter", "depth", "0", "a whole number, at least 1 and at most 3"),
    ("adapter", "reduction", "0", "a whole number, at least 1"),
    ("adapter", "side", "words", "one of image, text, both"),
    ("adapter", "activation", "swish", "one of relu, gelu, silu, tanh"),
    ("adapter", "learn_ratio", "maybe", "true or false"),
    ("cocoop", "n_ctx", "0", "a whole number, at least 1"),
    ("cocoop", "reduction", "0", "a whole number, at least 1"),
    ("gda", "alpha", "-1", "one of auto or a number, at least 0"),
    ("gda", "alpha", "best", "one of auto or a number, at least 0"),
    ("taskres", "scale", "0", "a number, above 0"),
    ("tip_adapter", "alpha", "-1", "one of auto or a number, at least 0"),
    ("tip_adapter", "beta", "-0.5", "one of auto or a number, at least 0"),
    ("tip_adapter", "search_scale", "[7, 0.05]", "a number, above 0.1"),
    ("tip_adapter", "search_step", "[200, 0]", "a whole number, at least 1"),
]


@pytest.mark.parametrize(("name", "option", "value", "allowed"), REFUSED)
def test_a_value_out_of_bounds_is_refused(name, option, value, allowed):
    given = {"method": name, f"method.{option}": TypedText(value)}
    with pytest.raises(InputError) as caught:
        configuration.compose(given)
    expected = f"method.{option}={value} in method {name}: expected {allowed}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=adapter", "method.learn_ratio=true", "method.ratio=1"],
            "method adapter: method.ratio=1 cannot be learned from: with method.learn_ratio=true "
            "expected a number above 0 and below 1",
        ),
        (
            ["method=tip_adapter", "method.search_scale=[7]"],
            "method tip_adapter: method.search_scale=[7.0]: expected two numbers, "
            "[of beta, of alpha]",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(train_tiny, animals, words, message):
    code, _, err = train_tiny(animals, *words)
    assert code == 2
    assert err.splitlines()[-1] == f"error: {message}"


@pytest.mark.parametrize("name", ["adapter", "cocoop", "gda", "taskres", "tip_adapter"])
def test_the_recipe_gives_the_defaults_of_the_constructor(name):
    defaults = read_defaults(finding.find_method(name).cls)
    resolved = configuration.compose({"method": name}).method_options
    assert resolved == defaults


@pytest.mark.parametrize(
    ("method_name", "words"),
    [
        ("tip_adapter", ["epochs=2"]),
        ("adapter", ["method.side=both"]),
        ("gda", []),
        ("taskres", []),
    ],
)
def test_a_run_ends_with_a_delta_that_loads(method_name, words, train_tiny, run_cli, animals):
    code, out, err = train_tiny(animals, f"method={method_name}", *words)
    assert code == 0, out + err
    code, out, err = run_cli("evaluate", "model=tiny.yaml", "out/adapter", f"dataset={animals}")
    assert code == 0, out + err
