"""Matthews correlation: how truth and prediction correlate, over all classes at once.

    R = (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

c of s images are right; t_k are of class k, p_k are predicted as it. Matthews 1975; for several
classes Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006, equation 8. As in
scikit-learn it is 0 where it is not defined.
"""

import numpy as np
from sklearn.metrics import matthews_corrcoef

from clip_adapt.evaluation import Metric, Resampled


def resample_matthews(r: Resampled) -> np.ndarray:
    """Return the correlation in every resample (R,)."""
    right, images = r.true_positives.sum(0), r.total
    predicted, true = r.predicted_positives, r.support  # (C, R)
    covariance = right * images - (predicted * true).sum(0)
    spread = (images**2 - (predicted**2).sum(0)) * (images**2 - (true**2).sum(0))
    return np.divide(covariance, np.sqrt(spread), out=np.zeros_like(images), where=spread > 0)


matthews = Metric(
    name="matthews",
    spoken="Matthews correlation",
    value=lambda p: matthews_corrcoef(p.labels, p.predicted),
    resampled=resample_matthews,
    low=-1.0,
)
