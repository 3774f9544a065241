"""An adapted CLIP: the delta, the classifier, its guard and its conformal sets."""
