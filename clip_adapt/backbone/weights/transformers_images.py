"""The image processor of a transformers folder, brought to open_clip's transform, or refused.

Our transform resizes to the tower's size (its short side, or both sides), cuts the centre out, and
normalises. A processor that does something else would give the tower other pixels than it was
trained on, so it is refused and never passed over.
"""

from __future__ import annotations

from typing import Any

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from clip_adapt.errors import InputError

# Files that hold a processor; transformers 5 writes the first, and prefers it to the second.
FILES = ("processor_config.json", "preprocessor_config.json")
_PILLOW = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
_PLAIN = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_pad": False}

Json = dict[str, Any]


def choose_processor(processor: Json | None, image_processor: Json | None) -> Json | None:
    """Return the image processor that counts of what the two FILES hold, None where there is none.

    Args:
        processor: what ``processor_config.json`` holds; before version 5 no image processor.
        image_processor: what ``preprocessor_config.json`` holds.
    """
    inner = (processor or {}).get("image_processor")
    return inner if isinstance(inner, dict) else image_processor


def convert_preprocessing(written: Json | None, kind: str, image_size: int) -> Json:
    """Return open_clip's image transform of an image processor; None is the default of its kind.

    Args:
        written: what its file holds; what it leaves out has the default of its kind.
        kind: ``clip`` or ``siglip``.
        image_size: of the tower as it was trained, in pixels.

    Raises:
        InputError: naming every value that our transform cannot follow.
    """
    siglip, given = kind == "siglip", written or {}
    _require_kind(given)
    half = [0.5, 0.5, 0.5]
    side = {"height": image_size, "width": image_size}
    read = {
        **_PLAIN,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "image_mean": half if siglip else list(OPENAI_DATASET_MEAN),
        "image_std": half if siglip else list(OPENAI_DATASET_STD),
        "size": side if siglip else {"shortest_edge": image_size},
        "crop_size": side,
        "do_center_crop": not siglip,
        **{key: value for key, value in given.items() if value is not None},
    }
    problems = [f"{key}={read[key]}" for key, plain in _PLAIN.items() if bool(read[key]) != plain]
    if abs(float(read["rescale_factor"]) * 255 - 1) > 1e-4:
        problems.append(f"rescale_factor={read['rescale_factor']} (expected 1/255)")
    interpolation = _PILLOW.get(read["resample"])
    if interpolation is None:
        problems.append(f"resample={read['resample']} (expected 2, bilinear, or 3, bicubic)")
    mode = _read_mode(read, image_size, kind)
    if mode is None:
        crop = read["crop_size"] if read["do_center_crop"] else "off"
        problems.append(
            f"size={read['size']} with a centre crop of {crop} (the tower takes {image_size} x "
            f"{image_size} pixels: expected that size, its short side or both)"
        )
    if problems:
        raise InputError(
            f"its image processor asks for {'; '.join(problems)}, which our transform cannot do. "
            "Features would differ from those that the model was trained on"
        )
    return {
        "interpolation": interpolation,
        "resize_mode": mode,
        "mean": read["image_mean"],
        "std": read["image_std"],
    }


def _require_kind(given: Json) -> None:
    # Processors differ in what they do by default, so one of another kind must say all of it.
    name = given.get("image_processor_type") or given.get("feature_extractor_type") or "CLIP"
    decisive = ("size", "resample", "image_mean", "image_std")
    if not str(name).lower().startswith(("clip", "siglip")):
        missing = [key for key in decisive if key not in given]
        if missing:
            raise InputError(
                f"its image processor is a {str(name)[:60]}, whose defaults are not known, and "
                f"does not say {', '.join(missing)}"
            )


def _read_mode(read: Json, image_size: int, kind: str) -> str | None:
    size, crop = read["size"], read["crop_size"]
    if isinstance(size, int):  # before 4.22: the short side for CLIP, both for others
        size = {"shortest_edge": size} if kind == "clip" else {"height": size, "width": size}
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if not isinstance(size, dict) or not isinstance(crop, dict):
        return None
    size = {key: value for key, value in size.items() if value is not None}
    both = {"height": image_size, "width": image_size}
    cropped = {key: crop.get(key) for key in both} == both
    if size == both and (cropped or not read["do_center_crop"]):
        return "squash"
    if size == {"shortest_edge": image_size} and cropped and read["do_center_crop"]:
        return "shortest"
    return None
