"""The kinds of input that are mutated, a file for those that are alike."""

from tools.torture.kind import Kind
from tools.torture.kinds import (
    bits,
    crowds,
    data_sets,
    deltas,
    machines,
    models,
    pictures,
    run_folders,
    words,
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        pictures.IMAGES,
        data_sets.TABLES,
        data_sets.CARDS,
        data_sets.SPLITS,
        deltas.DELTAS,
        models.MODELS,
        words.WORDS,
        run_folders.RUNS,
        machines.DISKS,
        crowds.PROCESSES,
        crowds.KILLS,
        bits.BITS,
        bits.SHARDS,
    )
}
