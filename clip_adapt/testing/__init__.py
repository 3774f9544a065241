"""The laws that methods and metrics keep, as functions that tests call.

    from clip_adapt.testing import check_method, check_metric
    check_method(MyMethod, backbone_factory)
    check_metric(my_metric)

What stands outside tests itself this way; ours are all run through it, found by their files.
"""

from clip_adapt.testing.methods import LAWS, Case, check_method
from clip_adapt.testing.metrics import METRIC_LAWS, check_metric

__all__ = ["LAWS", "METRIC_LAWS", "Case", "check_method", "check_metric"]
