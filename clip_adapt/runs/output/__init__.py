"""The folder of a run: which one, whether a run in it is finished, how a new one replaces it."""
