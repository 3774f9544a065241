"""The laws that methods, sources and metrics keep, as functions that tests call.

    from clip_adapt.testing import check_method, check_metric, check_source
    check_method(MyMethod, backbone_factory)
    check_source("my_source.py", "a/data/set")
    check_metric(my_metric)

What stands outside tests itself this way; ours are all run through it, found by their files.
"""

from clip_adapt.testing.case import Case
from clip_adapt.testing.methods import LAWS, check_method
from clip_adapt.testing.metrics import METRIC_LAWS, check_metric
from clip_adapt.testing.sources import SOURCE_LAWS, SourceCase, check_source

__all__ = [
    "LAWS",
    "METRIC_LAWS",
    "SOURCE_LAWS",
    "Case",
    "SourceCase",
    "check_method",
    "check_metric",
    "check_source",
]
