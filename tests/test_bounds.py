"""Where the bound of every number lies: the last value that fits, the first that does not."""

from typing import Annotated, get_args, get_origin

import pytest

from clip_adapt.config import options, values
from clip_adapt.config.cards import ModelCard
from clip_adapt.config.run_options import RunOptions
from clip_adapt.config.values import Between
from clip_adapt.data.source import find_source

LEAST = 5e-324  # the smallest number above 0
ABOVE_0, SHARE = ([LEAST, 1e9], [0.0, -LEAST]), ([0.0, 1.0], [-LEAST, 1.0 + 2**-52])
COUNT, LENGTH = ([1, 10**9], [0, -1]), ([0, 10**9], [-1])

RUN = {
    "shots": COUNT, "batch_size": COUNT, "views": COUNT, "accumulate": COUNT, "text_chunk": COUNT,
    "seed": LENGTH, "epochs": LENGTH, "iterations_per_shot": LENGTH, "warmup": LENGTH,
    "lr": ABOVE_0, "eps": ABOVE_0, "clip_norm": ABOVE_0, "cache_limit": ABOVE_0,
    "checkpoint": ABOVE_0,
    "weight_decay": ([0.0, 9.0], [-LEAST]), "warmup_lr": ([0.0, 9.0], [-LEAST]),
    "min_lr": ([0.0, 9.0], [-LEAST]), "momentum": SHARE, "label_smoothing": SHARE,
    "conformal": ([LEAST, 0.5], [0.0, 0.5 + 2**-53]), "conformal_images": COUNT,
}  # fmt: skip
MODEL = {"image_size": ([8, 4096], [7, 4097])}
DRAWN = {"size": ([32, 1024], [31, 1025]), "seed": LENGTH}

HOMES = {
    "run": (options.read_fields(RunOptions), RUN),
    "model": (options.read_fields(ModelCard), MODEL),
    "drawn": (find_source("drawn").options, DRAWN),
}


def is_bounded(annotation):
    if get_origin(annotation) is Annotated:
        return any(isinstance(mark, Between) for mark in get_args(annotation)[1:])
    return any(map(is_bounded, get_args(annotation)))


@pytest.mark.parametrize("home", HOMES)
def test_every_bounded_option_is_in_the_table(home):
    schema, table = HOMES[home]
    assert {n for n, option in schema.items() if is_bounded(option.annotation)} == table.keys()


@pytest.mark.parametrize(
    ("home", "name"), [(home, name) for home, (_, table) in HOMES.items() for name in table]
)
def test_a_bound_is_where_it_is_said_to_be(home, name):
    schema, table = HOMES[home]
    fits, does_not_fit = table[name]
    for value in fits:
        assert values.check(value, schema[name].annotation) == value
    for value in does_not_fit:
        with pytest.raises(ValueError):
            values.check(value, schema[name].annotation)
