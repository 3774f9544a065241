"""The laws that every method keeps, as a function that tests call.

    from clip_adapt.testing import check_method
    check_method(MyMethod, backbone_factory)

An outside method tests itself this way; ours are all run through it, found by their files.
"""

from clip_adapt.testing.methods import LAWS, Case, check_method

__all__ = ["LAWS", "Case", "check_method"]
