"""Zero-shot CLIP: a class is the text embedding of its prompts, an image goes to the nearest one.

    w_c = normalise(mean over prompts of normalise(text(prompt_c))),  logits = logit_scale * z w'

Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.2 (averaging over prompts:
section 3.1.4). Nothing is learned: 0 numbers. One prompt, several templates, or the card's
descriptions stand for a class, as the general option ``prompts`` says.
"""

from __future__ import annotations

from clip_adapt.method.contract import Method


class ZeroShot(Method):
    """The base class as it is."""

    starts_at_zero_shot = True
    works_on_other_classes = True
    quick = True
