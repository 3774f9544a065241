"""The names of the files in a run's folder, and of a sweep's and a folder of deltas."""

ADAPTER = "adapter"  # the folder of the delta
DELTA = "adapter.safetensors"
METRICS = "metrics.json"  # written last: it says that a run is finished
CONFIG = "config.yaml"
SUPPORT = "support.jsonl"
PREDICTIONS = "predictions.csv"
RETRIEVAL = "retrieval.csv"
CALIBRATION = "calibration.jsonl"
TWINS = "near_duplicates.csv"
IMAGES = "images.jsonl"  # SHA-256 of what is tested on, by which a page knows it again
PAGE = "report.html"
CHECKPOINT = "checkpoint"  # the folder of what a killed run goes on from
UNFINISHED = ".unfinished"  # the folder in which a run writes its files
FINISHED = ".finished"  # the same, while they take the place of an older run's
EVENTS = "events.out.tfevents.*"  # of TensorBoard

RESULTS = "results.csv"  # of a sweep
SUMMARY = "results.md"
CURVE = "curve"  # .png and .svg
INDEX = "index.html"
SWEEP_LOCK = ".sweep.lock"  # there while a sweep works
