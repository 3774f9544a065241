"""Speed as ratios: the published algorithm written plainly, and ours, measured in one run.

    python -m benchmarks.coop_step [--out DIR] [--threads N] [--device cpu]

Each benchmark prints one table and writes ``DIR/<name>.json`` with the machine, the versions, the
commit, the load, both times and their ratio. Towers have the size of ViT-B/16 and random weights,
so nothing is downloaded. Times are the best of a few, the two ways taking turns.
"""
