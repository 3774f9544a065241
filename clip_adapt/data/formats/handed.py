"""What Python hands over in place of a path: the bytes of a file, or a file object."""

from __future__ import annotations

from typing import Any

from clip_adapt.errors import InputError


def read_bytes(image: Any) -> bytes:
    """Return the content of a file that is given as bytes, or as a file object.

    Raises:
        InputError: when it is neither; names its type, and never its content.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not callable(getattr(image, "read", None)):
        raise InputError(
            "an image is a path, the bytes of a file, a file object, a PIL image, an array or a "
            f"tensor, not {describe_type(image)}"
        )
    return _read_file_object(image)


def describe_type(value: object) -> str:
    """Return what a value is: its type, never its content."""
    if value is None:
        return "None"
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _read_file_object(file: Any) -> bytes:
    # From its start, wherever it stands, and left there: it may be given twice.
    try:
        before = file.tell() if file.seekable() else None
        if before is not None:
            file.seek(0)
        data = file.read()
        if before is not None:
            file.seek(before)
    except (AttributeError, TypeError, OSError, ValueError) as error:
        raise InputError(f"this file object cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise InputError('a file object of an image is opened with "rb", not as text')
    return data
