"""Calls that do what no run may do, each as a kind of its own: a program that test_torture runs."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path

from clip_adapt import cli
from clip_adapt.errors import InputError
from tools.torture import __main__ as command
from tools.torture import examples
from tools.torture.judging import Wrong
from tools.torture.kind import Kind
from tools.torture.kinds import KINDS


def end_well():
    return 0


def refuse():
    raise InputError("no")


def refuse_with_two_messages():
    print("error: one", file=sys.stderr)
    raise InputError("two")


def refuse_without_a_message():
    return cli.REFUSED


def refuse_without_end():
    raise InputError("no" * 20_000)


def refuse_and_leave_an_output():
    Path("out").mkdir()
    raise InputError("no")


def leave_a_file():
    Path("cache").mkdir()
    Path("cache/.half-written").touch()


def raise_an_error():
    return {}["nothing"]


def print_a_traceback():
    print("Traceback (most recent call last):", file=sys.stderr)


def end_with_a_fault():
    return cli.FAULT


def change_the_warnings_filter():
    warnings.simplefilter("ignore")


def change_the_environment():
    os.environ["LEFT"] = "1"


def give_another_answer():
    raise Wrong("another delta")


def crash():
    os.abort()


def hang():
    time.sleep(60)


PLANTED = {
    call.__name__: call
    for call in (
        *(end_well, refuse, refuse_with_two_messages, refuse_without_a_message),
        *(refuse_without_end, refuse_and_leave_an_output, leave_a_file, raise_an_error),
        *(print_a_traceback, end_with_a_fault, change_the_warnings_filter),
        *(change_the_environment, give_another_answer, crash, hang),
    )
}


def main() -> int:
    examples.warm_up = lambda folder: None
    for name, call in PLANTED.items():
        KINDS[name] = Kind(name, lambda folder: None, lambda random, made, place, call=call: call)
    return command.main([*PLANTED, "--count", "1", "--seed", "7", "--limit", "1"])


if __name__ == "__main__":
    sys.exit(main())
