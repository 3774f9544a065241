"""The laws that every method and every source keeps, as functions that tests call.

    from clip_adapt.testing import check_method, check_source
    check_method(MyMethod, backbone_factory)
    check_source("my_source.py", "a/data/set")

An outside method or source tests itself this way; ours are all run through it, found by their
files.
"""

from clip_adapt.testing.methods import LAWS, Case, check_method
from clip_adapt.testing.sources import SOURCE_LAWS, SourceCase, check_source

__all__ = ["LAWS", "SOURCE_LAWS", "Case", "SourceCase", "check_method", "check_source"]
