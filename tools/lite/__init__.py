"""The parts of ``tools/build_lite.py``: sources, corpus, concepts, text targets, towers, export."""
