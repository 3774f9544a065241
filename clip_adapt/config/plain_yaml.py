"""YAML as data: numbers, texts, lists and maps, and nothing that stands for something else.

A card may be somebody else's. In it ``${oc.env:TOKEN}`` is a text of 15 letters: no variable of the
environment is read, no other key is looked up, no object is made.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

LIMIT = 1_000_000  # values of one file, counted as often as aliases repeat them
# YAML 1.1 takes 1e-3 for a text; here it is the number that everybody means by it.
_FLOAT = re.compile(
    r"""^(?:
     [-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
_BREAKS = re.compile("[\x85\u2028\u2029]")
_TAG = "tag:yaml.org,2002:"
_WORDS = frozenset(f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe loader without dates, sets and bytes, and with every key once."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Return what a document holds, unless its aliases unfold to more than memory."""
        _count_values(node, {})
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a map whose keys are all different."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"found duplicate key {key.value}", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


class TypedText(str):
    """A word as somebody typed it, unquoted: what it means is for the option that takes it to say.

    To YAML ``no`` is a truth value and ``1e5`` a number, and to an option that wants text they are
    text, letter by letter.
    """


class _WordLoader(_Loader):
    """``_Loader`` that leaves unquoted numbers, truth values and nulls as ``TypedText``."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return what a node holds; a word as it stands there."""
        if isinstance(node, yaml.ScalarNode) and not node.style and node.tag in _WORDS:
            return TypedText(node.value)
        return super().construct_object(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes what ``_Loader`` would take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Return a text; with an end of a line that only YAML knows, as codes.

        Between single quotes PyYAML folds those ends, and reads something else there.
        """
        style = '"' if _BREAKS.search(text) else None
        return self.represent_scalar(f"{_TAG}str", str(text), style=style)


def _adjust(cls: Any, *without: str) -> None:
    cls.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))
    cls.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag.removeprefix(_TAG) not in without]
        for first, forms in cls.yaml_implicit_resolvers.items()
    }


_adjust(_Loader, "timestamp", "value")  # a value is ``=``, which others read, so it is quoted
_adjust(_WordLoader, "timestamp", "value")
_adjust(_Dumper, "timestamp")
_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(str, _Dumper.represent_text)
for _name in ("binary", "timestamp", "omap", "pairs", "set"):
    _Loader.add_constructor(f"{_TAG}{_name}", yaml.SafeLoader.construct_undefined)


def load_plain(text: str) -> Any:
    """Return what a text means as YAML.

    Raises:
        yaml.YAMLError: when it is not YAML, or holds more than numbers, texts, lists and maps.
        ValueError: when a number has thousands of digits.
    """
    return _load(text, _Loader)


def load_words(text: str) -> Any:
    """Return the same with every number, truth value and null that is not quoted as it was typed.

    ``values.check`` and ``values.resolve`` read these ``TypedText``.

    Raises:
        yaml.YAMLError: when it is not YAML, or holds more than numbers, texts, lists and maps.
    """
    return _load(text, _WordLoader)


def _load(text: str, loader: type) -> Any:
    try:
        return yaml.load(text, Loader=loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def dump_plain(values: Any) -> str:
    """Return values as YAML, in their own order."""
    return yaml.dump(
        values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )


def _count_values(node: yaml.Node, counted: dict[int, int | None]) -> int:
    # What an alias stands for is one node of the document, however often it is repeated.
    known = counted.get(id(node), 0)
    if known is None:
        raise yaml.constructor.ConstructorError(None, None, "it holds itself", node.start_mark)
    if known:
        return known
    counted[id(node)] = None
    children = node.value if isinstance(node.value, list) else []
    flat = [n for child in children for n in (child if isinstance(child, tuple) else (child,))]
    total = 1 + sum(_count_values(child, counted) for child in flat)
    if total > LIMIT:
        raise yaml.constructor.ConstructorError(
            None, None, "its aliases repeat too much", node.start_mark
        )
    counted[id(node)] = total
    return total
