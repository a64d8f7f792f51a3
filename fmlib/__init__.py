"""Flow matching, small and fast: paths, exact marginals, solvers, training and sampling for the course's notebooks."""

from fmlib import (
    checkpoints,
    claims,
    couplings,
    datasets,
    exact,
    losses,
    metrics,
    models,
    paths,
    sampling,
    schedules,
    solvers,
    training,
)
from fmlib.claims import claim
from fmlib.paths import AffinePath
from fmlib.sampling import sample
from fmlib.training import fit

__version__ = "0.1.0"
__all__ = [
    "AffinePath",
    "checkpoints",
    "claim",
    "claims",
    "couplings",
    "datasets",
    "exact",
    "fit",
    "losses",
    "metrics",
    "models",
    "paths",
    "sample",
    "sampling",
    "schedules",
    "solvers",
    "training",
]
