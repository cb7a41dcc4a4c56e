"""Bayesian inference in state-space models written as ordinary NumPyro models.

A model whose time loop is `numpyro.contrib.control_flow.scan` is taken apart once, by `trace`, and
then handed to engines of two unlike families: particle filters and the samplers built on them, and
NUTS on the model with all noise moved outside the loop.  `compare` says whether they agree and what
each cost.  Data flow one way:

    model/       what the user wrote: trace, sites and roles, noise, the pure functions engines use
    particles/   how particles move: weights, resampling, the filter
    results/     what came out: draws, summaries, agreement, plots
    inference/   parameters: NUTS, PMMH, tempered SMC, maximum likelihood

Use the names qualified (`ssmscan.trace`, `ssmscan.NUTS`): NumPyro has its own.
"""

from ssmscan.errors import ModelError
from ssmscan.inference.long_run import LongRun, long_run
from ssmscan.inference.maximum import MaximumLikelihood
from ssmscan.inference.nuts import NUTS
from ssmscan.inference.pmmh import PMMH
from ssmscan.inference.predict import predict
from ssmscan.inference.tempering import TemperedSMC
from ssmscan.model.noise_outside import noise_outside
from ssmscan.model.sites import Role, Site
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.tracing import trace
from ssmscan.particles.filter import ParticleFilter, log_likelihood
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.genealogy import backward_sample, trace_ancestry
from ssmscan.particles.online import Online
from ssmscan.particles.online_resume import resume
from ssmscan.particles.resampling import multinomial, stratified, systematic
from ssmscan.particles.stores import Ancestry, FinalCloud, FullHistory, LastSteps
from ssmscan.particles.summaries import PIT, SD, Mean, Quantiles
from ssmscan.results import Maximum, Result, ResultWarning, compare, load, plots

__version__ = "0.1.0"

__all__ = [
    "Ancestry",
    "LastSteps",
    "NUTS",
    "Online",
    "PIT",
    "PMMH",
    "SD",
    "FilterResult",
    "FinalCloud",
    "FullHistory",
    "Maximum",
    "LongRun",
    "MaximumLikelihood",
    "Mean",
    "ModelError",
    "ParticleFilter",
    "Quantiles",
    "Result",
    "ResultWarning",
    "Role",
    "Site",
    "StateSpaceModel",
    "TemperedSMC",
    "__version__",
    "backward_sample",
    "compare",
    "load",
    "log_likelihood",
    "long_run",
    "multinomial",
    "noise_outside",
    "plots",
    "predict",
    "resume",
    "stratified",
    "systematic",
    "trace",
    "trace_ancestry",
]
