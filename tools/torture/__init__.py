"""Inputs and machines that go wrong, many thousand times, by a seed: ``python -m tools.torture``.

Every kind mutates small valid examples, runs the product on each in a worker of its own, and counts
what did not end as it must: with a result, or with one message and exit code 2; no traceback, no
hang, nothing half-written, nothing of the process changed.
"""
