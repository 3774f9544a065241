"""Deltas that are rewritten as their author could have written them: with the digest of it all."""

from __future__ import annotations

from clip_adapt.system.tensor_files import DIGEST, read_tensors, write_tensors

KEY = "clip_adapt"


def rewrite_delta(file, change_text=lambda text: text, change_tensors=lambda tensors: tensors):
    """Change the text of a delta's header, or its tensors."""
    tensors, metadata = read_tensors(file)
    del metadata[DIGEST]
    metadata[KEY] = change_text(metadata[KEY])
    write_tensors(file, change_tensors(tensors), metadata)
