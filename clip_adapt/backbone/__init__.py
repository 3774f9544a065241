"""One frozen CLIP: its two towers, their fast ways, and where its weights come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_adapt.system.lazy import export_lazily

if TYPE_CHECKING:
    from clip_adapt.backbone.backbone import Backbone

__all__ = ["Backbone"]

__getattr__ = export_lazily(__name__, {"Backbone": "backbone"})
