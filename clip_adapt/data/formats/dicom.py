"""DICOM, by pydicom (``clip-adapt[dicom]``): the first frame as its window shows it.

The order of the standard (PS3.3, C.11 and C.7.6.3.1.2): stored values, modality table or rescale
slope and intercept, the first window or table of interest, and white for black where
MONOCHROME1 says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from clip_adapt.data.formats.depth import find_bits, stretch
from clip_adapt.data.formats.limits import Unusable, refuse_absurd

DEFLATED = "1.2.840.10008.1.2.1.99"  # the whole file is one stream that may unpack to any size
INVERTED, GREY = "MONOCHROME1", ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom gives RGB
# What pydicom takes to unpack what it cannot (its guide to compressed pixel data).
DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pyjpegls"

File = Any  # open for reading bytes; pydicom asks for BinaryIO
Header = Any  # pydicom's Dataset, which is typed by what a file holds


def recognises(head: bytes) -> bool:
    """Return whether a file that starts like this is DICOM (PS3.10, 7.1)."""
    return head[128:132] == b"DICM"


def read(file: File) -> Image.Image:
    """Read the first frame as grey or RGB of 8 bits.

    Raises:
        Unusable: when it holds no picture, or one that cannot be shown; says why.
        AttributeError, KeyError, ValueError and others of pydicom: when it is damaged.
    """
    from pydicom import dcmread

    _refuse_deflated(file)
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True)
    width, height = header.get("Columns"), header.get("Rows")
    if not width or not height:
        raise Unusable("a DICOM file without a picture")
    refuse_absurd(width, height)
    kind = str(header.get("PhotometricInterpretation", ""))
    if kind not in (*GREY, *COLOURS, PALETTE):
        raise Unusable(f"a DICOM file whose colours are {kind or 'not named'}: not read")
    stored = _unpack(file, header)
    values = _show_grey(stored, header) if kind in GREY else _show_colours(stored, header, kind)
    image = Image.fromarray(255 - values if kind == INVERTED else values)
    image.info["several"] = int(header.get("NumberOfFrames") or 1) > 1
    return image


def _refuse_deflated(file: File) -> None:
    from pydicom.filereader import read_dataset, read_preamble

    read_preamble(file, force=False)
    meta: Header = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
    )
    if meta.get("TransferSyntaxUID") == DEFLATED:
        raise Unusable("a DICOM file that is deflated as a whole: save it without")


def _unpack(file: File, header: Header) -> np.ndarray:
    # The stored values of the first frame, (H, W) or (H, W, 3).
    from pydicom.pixels import get_decoder, pixel_array

    syntax = header.file_meta.TransferSyntaxUID
    file.seek(0)
    if not syntax.is_compressed:
        return pixel_array(file, index=0)
    pixels = f"DICOM pixels as {syntax.name}"
    try:
        if not get_decoder(syntax).is_available:
            raise Unusable(f"{pixels}: {DECODERS} reads most kinds")
        return pixel_array(file, index=0)
    except NotImplementedError as error:
        raise Unusable(f"{pixels}: not read") from error
    except RuntimeError as error:
        raise Unusable(f"{pixels}: damaged, or of a kind that takes {DECODERS}") from error


def _show_colours(stored: np.ndarray, header: Header, kind: str) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    if kind != PALETTE:
        return stretch(stored, 0, (1 << int(header.BitsStored)) - 1)
    if "RedPaletteColorLookupTableData" not in header:  # in segments it may be of any size
        raise Unusable("a DICOM file whose palette is missing or in segments: not read")
    colours = apply_color_lut(stored, header)[..., :3]
    return stretch(colours, 0, np.iinfo(colours.dtype).max)


def _show_grey(stored: np.ndarray, header: Header) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut, apply_voi

    _gather_frame(header)
    values = apply_modality_lut(stored, header)
    centre, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    if centre is not None and width is not None:
        return stretch(_apply_window(values, centre, width, header.get("VOILUTFunction")), 0, 1)
    if header.get("VOILUTSequence"):
        shown = apply_voi(np.rint(values).astype(np.int32), header)
        return stretch(shown, 0, (1 << int(header.VOILUTSequence[0].LUTDescriptor[2])) - 1)
    if header.get("PixelRepresentation") or header.get("ModalityLUTSequence"):
        return stretch(values, values.min(), values.max())
    return stretch(values, *_find_range(stored, header))


def _find_range(stored: np.ndarray, header: Header) -> tuple[float, float]:
    from pydicom.pixels import apply_modality_lut

    bits = int(header.BitsStored)
    bits = find_bits(int(stored.max())) if bits == 16 else bits
    low, high = apply_modality_lut(np.array([0, (1 << bits) - 1]), header)
    return float(low), float(high)


def _apply_window(values: np.ndarray, centre: float, width: float, how: Any) -> np.ndarray:
    # PS3.3, C.11.2.1.2 and C.11.2.1.3; below 0 is black, above 1 is white.
    how = str(how or "LINEAR").upper()
    if how == "SIGMOID":
        return 1 / (1 + np.exp((-4 * (values - centre) / max(width, 1e-6)).clip(-500, 500)))
    if how == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return (values - centre) / max(width, 1e-6) + 0.5


def _gather_frame(header: Header) -> None:
    # Files of many frames hold window and slope with each frame, or once for all of them.
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for groups in (header.get(name) or [])[:1]:
            for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in (groups.get(part) or [])[:1]:
                    header.update(item)


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    several = hasattr(value, "__iter__") and not isinstance(value, str)
    return float(value[0] if several else value) if not several or len(value) else None
