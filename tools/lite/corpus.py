"""190,995 short English texts for the text tower: a dictionary, class names, our own lists."""

import random
import re
from pathlib import Path

import open_clip
import yaml

from lite.sources import load_dictionary

HERE = Path(__file__).parent
# Synsets taken of each lexicographer file whose nouns can be seen (man page lexnames(5)).
VISIBLE = {
    5: 7000,
    6: 16000,
    7: 3000,
    8: 4000,
    13: 5000,
    17: 3000,
    18: 5000,
    19: 1500,
    20: 7000,
    25: 800,
}
VISIBLE |= {14: 500, 15: 1500, 26: 5000, 27: 4000, 4: 2500, 9: 1500, 10: 1500, 23: 500}


def word_lists() -> dict[str, list[str]]:
    """The lists of ``words.yaml``; templates are split at ``|``, all others at commas."""
    raw = yaml.safe_load((HERE / "words.yaml").read_text())
    return {
        k: [w.strip() for w in re.split(r"\|" if k == "templates" else ",", v)]
        for k, v in raw.items()
    }


def build_corpus(cache: Path, seed: int = 0) -> list[str]:
    """Distinct texts in a fixed random order."""
    rng, words = random.Random(seed), word_lists()
    texts = [
        *_dictionary(cache, words, rng),
        *_class_names(words, rng),
        *_templated(words, rng),
        *_phrases(words, rng),
    ]
    texts = sorted({t for t in texts if 0 < len(t) < 160})
    rng.shuffle(texts)
    return texts


def _dictionary(cache: Path, words: dict[str, list[str]], rng: random.Random) -> list[str]:
    synsets = list(load_dictionary(cache, "noun").values())
    nouns, glosses = [], []
    for field, limit in VISIBLE.items():
        found = [s for s in synsets if s.field == field]
        rng.shuffle(found)
        nouns += [w for s in found[:limit] for w in s.lemmas[:2] if w.count(" ") < 3]
        glosses += [" ".join(s.gloss.split()[:12]) for s in found[: limit // 3]]
    nouns = sorted({w for w in nouns if not w[0].isdigit()})
    adjectives = sorted({s.lemmas[0] for s in load_dictionary(cache, "adj").values()})
    common = [w for k in ("objects", "clothing", "animals", "food", "anatomy") for w in words[k]]
    pairs = [
        f"{rng.choice(adjectives)} {rng.choice(nouns if i % 3 else common)}" for i in range(9000)
    ]
    filled = [rng.choice(words["templates"]).format(w) for w in rng.sample(nouns, 14000)]
    return nouns + adjectives[:9000] + glosses + pairs + filled


def _class_names(words: dict[str, list[str]], rng: random.Random) -> list[str]:
    plain = words["templates"][:8]
    texts = [t.format(c) for c in open_clip.IMAGENET_CLASSNAMES for t in plain]
    return texts + [rng.choice(words["templates"]).format(c) for c in open_clip.IMAGENET_CLASSNAMES]


def _templated(words: dict[str, list[str]], rng: random.Random) -> list[str]:
    skip = ("templates", "relations", "sizes")
    own = [w for k, v in words.items() if k not in skip for w in v]
    first = [t.format(w) for w in own for t in words["templates"][:8]]
    more = [t.format(w) for w in own for t in rng.sample(words["templates"][8:], 5)]
    return [*first, *more]


def _phrases(words: dict[str, list[str]], rng: random.Random) -> list[str]:
    """Adjective + noun, states of body parts and things, relations, findings in words."""
    pick = {k: (lambda v=v: rng.choice(v)) for k, v in words.items()}
    things = [
        w for k in ("objects", "clothing", "food", "vehicles", "waste", "animals") for w in words[k]
    ]
    thing = lambda: rng.choice(things)  # noqa: E731
    forms = {
        "{colours} {thing}": 3500,
        "a {sizes} {colours} {thing}": 1500,
        "{states} {thing}": 2500,
        "{materials} {thing}": 2500,
        "a {thing} made of {materials}": 1200,
        "{textures} {materials}": 1500,
        "a {textures} surface": 50,
        "{states} {anatomy}": 3500,
        "{states} {findings}": 1500,
        "{findings} of the {anatomy}": 2500,
        "an eye with {findings}": 300,
        "a photo of an eye with {states} {findings}": 1200,
        "a photo of an eye with {findings} and {findings}": 1000,
        "a {colours} {shapes} on the {anatomy}": 1500,
        "the {anatomy} is {states}": 1500,
        "the {anatomy} is {states} and {colours}": 1200,
        "{states} {colours} {anatomy}": 1500,
        "{findings} near the {anatomy}": 1200,
        "{imaging} of the {anatomy}": 1200,
        "{imaging} showing {findings}": 1500,
        "{materials} with a {faults}": 1500,
        "{thing} with a {faults}": 1500,
        "a {thing} {relations} a {thing}": 3000,
        "a {people} {relations} a {thing}": 1500,
        "a {people} wearing {clothing}": 1500,
        "a person wearing a {colours} {clothing}": 1200,
        "a {animals} in a {scenes}": 1200,
        "a {vehicles} in a {scenes}": 1000,
        "a satellite image of {land cover}": 60,
        "an aerial view of a {scenes}": 150,
        "a {colours} {shapes}": 600,
        "{expressions} with {states} eyes": 300,
    }
    return [form.format_map(_Draw(pick, thing)) for form, n in forms.items() for _ in range(n)]


class _Draw(dict):
    """Fills every ``{list}`` of a form with a fresh word of that list."""

    def __init__(self, pick: dict, thing) -> None:
        super().__init__(pick)
        self["thing"] = thing

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key)()
