"""What the classifier of the image tower says about words: 1000 classes and their kinds.

A class contributes the row of the classifier; a kind (a hypernym in the dictionary: "hat", "bird",
"vessel") the mean row of its members. ImageNet's identifiers are WordNet 3.0 offsets, the
dictionary is 3.1, so classes are found by words and gloss.
"""

from dataclasses import dataclass
from pathlib import Path

import open_clip
import timm

from lite.sources import Synset, load_dictionary

INFO = Path(timm.__file__).parent / "data" / "_info"
LARGEST_KIND = 250  # kinds above a quarter of all classes ("entity", "whole") say nothing visual


@dataclass(frozen=True)
class Concept:
    """A name and the ImageNet classes that it covers."""

    name: str
    members: tuple[int, ...]


def classes() -> list[Concept]:
    """The 1000 classes under the names that open_clip uses for zero-shot evaluation."""
    return [Concept(name, (i,)) for i, name in enumerate(open_clip.IMAGENET_CLASSNAMES)]


def kinds(cache: Path) -> list[Concept]:
    """Every hypernym of a class with at most ``LARGEST_KIND`` classes below it."""
    nouns = load_dictionary(cache, "noun")
    members: dict[int, set[int]] = {}
    for index, offset in enumerate(_offsets(nouns)):
        for above in _above(offset, nouns):
            members.setdefault(above, set()).add(index)
    found = sorted((o, tuple(sorted(m))) for o, m in members.items() if len(m) <= LARGEST_KIND)
    return [Concept(nouns[o].lemmas[0], m) for o, m in found]


def _above(offset: int, nouns: dict[int, Synset]) -> set[int]:
    seen, todo = {offset}, list(nouns[offset].hypernyms)
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            todo += nouns[current].hypernyms
    return seen - {offset}


def _offsets(nouns: dict[int, Synset]) -> list[int]:
    lemmas, glosses = _table("lemma"), _table("definition")
    by_word: dict[str, list[int]] = {}
    for offset, synset in nouns.items():
        for word in synset.lemmas:
            by_word.setdefault(word.lower(), []).append(offset)
    wanted = (INFO / "imagenet_synsets.txt").read_text().split()
    return [_closest(lemmas[w].split(", "), glosses[w], by_word, nouns) for w in wanted]


def _closest(
    words: list[str], gloss: str, by_word: dict[str, list[int]], nouns: dict[int, Synset]
) -> int:
    """The synset that shares most words with ``words`` and with ``gloss``; ties go to the first."""
    wanted = set(gloss.lower().replace(";", " ").split())

    def likeness(offset: int) -> float:
        shared = len(wanted & set(nouns[offset].gloss.lower().split())) / len(wanted)
        return len(set(words) & set(nouns[offset].lemmas)) + 3 * shared

    candidates = [o for word in words for o in by_word.get(word.lower(), [])]
    return max(candidates, key=likeness)


def _table(name: str) -> dict[str, str]:
    lines = (INFO / f"imagenet_synset_to_{name}.txt").read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines)
