"""Flow matching, small and fast: paths, exact marginals, solvers, training and sampling for the course's notebooks."""

from fmlib import (
    batches,
    checkpoints,
    claims,
    couplings,
    datasets,
    devices,
    exact,
    guidance,
    laws,
    likelihood,
    losses,
    manifolds,
    metrics,
    models,
    objectives,
    paths,
    runs,
    sampling,
    schedules,
    solvers,
    tokens,
    training,
)
from fmlib.claims import claim
from fmlib.paths import AffinePath
from fmlib.runs import Checkpoints
from fmlib.sampling import sample
from fmlib.training import fit

__version__ = "1.0.0"
__all__ = [
    "AffinePath",
    "Checkpoints",
    "batches",
    "checkpoints",
    "claim",
    "claims",
    "couplings",
    "datasets",
    "devices",
    "exact",
    "fit",
    "guidance",
    "laws",
    "likelihood",
    "losses",
    "manifolds",
    "metrics",
    "models",
    "objectives",
    "paths",
    "runs",
    "sample",
    "sampling",
    "schedules",
    "solvers",
    "tokens",
    "training",
]
