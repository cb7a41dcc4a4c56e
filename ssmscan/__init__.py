"""Bayesian inference in state-space models written as ordinary NumPyro models.

A model whose time loop is `numpyro.contrib.control_flow.scan` is taken apart once, by `trace`, and then handed to
engines of two unlike families: particle filters and the samplers built on them, and NUTS on the model with all noise
moved outside the loop.  `compare` says whether they agree and what each cost.

    ssm = ssmscan.trace(model, y)                                   # print(ssm) shows what was found
    nuts = ssmscan.NUTS().run(jax.random.key(0), ssm)
    pmmh = ssmscan.PMMH().run(jax.random.key(1), ssm)
    print(ssmscan.compare(nuts=nuts, pmmh=pmmh))
    states = ssmscan.ParticleFilter(10_000).run(jax.random.key(2), ssm, nuts.mean())

Data flow one way, and a folder imports only from those before it:

    errors, arguments, files  `ModelError`, and how to add a refusal; checks of what a user gives; the one file writer
    dates, labels             dates, and how they go on; names of axes, and what stands along them
    health                    one verdict on what was found, and reasons to act on
    tail_index                whether weights have a variance, asked of clouds and of weighted points
    datasets/                 small data sets, with where they come from
    model/                    what the user wrote: sites and roles, noise, the pure functions engines use
    particles/                how particles move: weights, resampling, the filter, estimators of the likelihood
    results/                  what came out: draws, summaries, agreement, plots
    inference/                parameters: NUTS, PMMH, particle Gibbs, importance sampling, tempered SMC, SMC2, maxima
    certification/            is it right on this model and machine: `certify`, and the self-test
    stochastic_volatility     a model to copy and change
    demo                      that model by two samplers
    command_line/, __main__   `ssmscan demo`, `selftest`, `trace`, `check`

`__all__` is in the order in which one meets things.  Use the names qualified (`ssmscan.trace`, `ssmscan.NUTS`): NumPyro
has its own.
"""

from ssmscan.certification.certificate import Calibration, Certificate, Finding, Outcome
from ssmscan.certification.certify import certify
from ssmscan.errors import ModelError
from ssmscan.health import Condition, Health, Reason, Section
from ssmscan.inference.approximation import GaussianPath, gaussian_approximation
from ssmscan.inference.ascent import Optimizer
from ssmscan.inference.cross_check import cross_check
from ssmscan.inference.engines import Engine
from ssmscan.inference.evidence import EvidenceEstimate, evidence
from ssmscan.inference.filters_at_draws import Predicting, predictive_densities
from ssmscan.inference.forecast_scores import forecast_scores
from ssmscan.inference.gibbs import ParticleGibbs
from ssmscan.inference.gibbs_kernels import BlackJAXKernel, KernelMove, NUTSKernel, ParameterKernel
from ssmscan.inference.importance import ImportanceSampler
from ssmscan.inference.leave_future_out import leave_future_out
from ssmscan.inference.long_run import LongRun, long_run
from ssmscan.inference.maximum import MaximumLikelihood
from ssmscan.inference.nuts import NUTS
from ssmscan.inference.pmmh import PMMH
from ssmscan.inference.predict import predict, prior_predictive
from ssmscan.inference.smc2 import SMC2
from ssmscan.inference.smc2_record import RunningPosterior
from ssmscan.inference.spreading import use_cores
from ssmscan.inference.tempering import TemperedSMC
from ssmscan.labels import Labels
from ssmscan.model.gaussian.backward import Gains
from ssmscan.model.gaussian.law import Fit
from ssmscan.model.noise_outside import noise_outside
from ssmscan.model.protocols import (
    Dynamics,
    Evaluated,
    EvaluatedStart,
    Model,
    NoiseDynamics,
    NoiseSpec,
    Panel,
    Start,
    Step,
)
from ssmscan.model.sites import Role, Site
from ssmscan.model.statespace.checking import Check, Factor
from ssmscan.model.statespace.forward_runs import Evidence
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.marginal import Posterior
from ssmscan.model.tracing import integrate_states, trace
from ssmscan.model.validation import enable_validation, validation_enabled
from ssmscan.particles.choosing import choose_proposal
from ssmscan.particles.clouds import Cloud, History, Kept, Origins, Tree
from ssmscan.particles.conditional import AncestorSampling, Ancestral, BackwardSampling, ConditionalPath, ConditionalSMC
from ssmscan.particles.conditional_step import Backward
from ssmscan.particles.discrete_filter import DiscreteFilter
from ssmscan.particles.estimators import Estimator, LikelihoodEstimate, OneStepAhead, Replicates, SampledPath, Spread
from ssmscan.particles.exact_likelihood import ExactLikelihood
from ssmscan.particles.filter import ParticleFilter, log_likelihood
from ssmscan.particles.filter_result import FilterResult
from ssmscan.particles.filter_step import StepInfo
from ssmscan.particles.genealogy import backward_sample, trace_ancestry
from ssmscan.particles.guided import Guided
from ssmscan.particles.look_ahead import LookAhead
from ssmscan.particles.online import Online
from ssmscan.particles.online_resume import resume
from ssmscan.particles.printing import Card
from ssmscan.particles.proposals import Bootstrap, ConditionalProposal, Move, Proposal, SeriesProposal
from ssmscan.particles.resampling import ConditionalResampling, Resampling, killing, multinomial, stratified, systematic
from ssmscan.particles.smoothing import (
    BackwardSimulation,
    Exact,
    FixedLag,
    MCMCBackward,
    Smoother,
    SmoothingMethod,
    SmoothingResult,
)
from ssmscan.particles.stores import Ancestry, Eves, FinalCloud, FullHistory, LastSteps, Store
from ssmscan.particles.summaries import PIT, SD, Mean, Probabilities, Quantiles, Summary
from ssmscan.results import plots
from ssmscan.results.agreement import Comparison, EngineReport, PairReport, compare
from ssmscan.results.checked import CrossCheck, Look
from ssmscan.results.criteria import Criteria, Tolerances
from ssmscan.results.data import Costs
from ssmscan.results.densities import PredictiveDensities
from ssmscan.results.health import ResultWarning
from ssmscan.results.maximum import Maximum
from ssmscan.results.predictions import Predictions
from ssmscan.results.result import Result, load
from ssmscan.results.scores import ForecastScores, LeaveFutureOut, Reweighting, ScoreDifference
from ssmscan.results.summary import Estimate, ScalarSummary
from ssmscan.results.table import Table
from ssmscan.results.uniformity import Band
from ssmscan.results.verdicts import Difference, Fault, Judgement, Verdict

__version__ = "0.1.0"

__all__ = [
    # a model
    "trace",
    "integrate_states",
    "StateSpaceModel",
    "Site",
    "Role",
    "enable_validation",
    "validation_enabled",
    # engines, and what they return
    "NUTS",
    "PMMH",
    "ParticleGibbs",
    "ImportanceSampler",
    "TemperedSMC",
    "SMC2",
    "RunningPosterior",
    "Result",
    "MaximumLikelihood",
    "Maximum",
    "use_cores",
    "ParticleFilter",
    "FilterResult",
    "log_likelihood",
    # is it right on this model and machine
    "certify",
    "Certificate",
    "Finding",
    "Outcome",
    "Calibration",
    "Band",
    # do they agree
    "cross_check",
    "CrossCheck",
    "compare",
    "Comparison",
    "Verdict",
    "Tolerances",
    "Criteria",
    "evidence",
    "EvidenceEstimate",
    "plots",
    "load",
    # can it be used, and if not what to do
    "Health",
    "Condition",
    "Reason",
    "Section",
    # states: paths, forecasts, long and growing series
    "predict",
    "prior_predictive",
    "predictive_densities",
    "PredictiveDensities",
    "Predictions",
    "Labels",
    "forecast_scores",
    "ForecastScores",
    "ScoreDifference",
    "leave_future_out",
    "LeaveFutureOut",
    "Smoother",
    "SmoothingResult",
    "Exact",
    "BackwardSimulation",
    "MCMCBackward",
    "FixedLag",
    "backward_sample",
    "trace_ancestry",
    "ConditionalSMC",
    "ConditionalPath",
    "gaussian_approximation",
    "GaussianPath",
    "noise_outside",
    "long_run",
    "LongRun",
    "Online",
    "resume",
    # settings of filters
    "systematic",
    "stratified",
    "multinomial",
    "killing",
    "Bootstrap",
    "Guided",
    "LookAhead",
    "choose_proposal",
    "AncestorSampling",
    "BackwardSampling",
    "Ancestral",
    "Mean",
    "SD",
    "Quantiles",
    "Probabilities",
    "PIT",
    "FinalCloud",
    "Eves",
    "LastSteps",
    "Ancestry",
    "FullHistory",
    "Replicates",
    "ExactLikelihood",
    "DiscreteFilter",
    # settings of particle Gibbs
    "NUTSKernel",
    "BlackJAXKernel",
    # protocols, for one's own
    "Model",
    "Dynamics",
    "Engine",
    "Estimator",
    "Predicting",
    "Proposal",
    "SeriesProposal",
    "ConditionalProposal",
    "Backward",
    "Resampling",
    "ConditionalResampling",
    "SmoothingMethod",
    "Store",
    "Summary",
    "ParameterKernel",
    "Optimizer",
    # records that these return or hold
    "Check",
    "Factor",
    "Evidence",
    "NoiseSpec",
    "NoiseDynamics",
    "Fit",
    "Gains",
    "Panel",
    "Start",
    "EvaluatedStart",
    "Step",
    "Evaluated",
    "Posterior",
    "Move",
    "KernelMove",
    "StepInfo",
    "Cloud",
    "Kept",
    "History",
    "Tree",
    "Origins",
    "LikelihoodEstimate",
    "OneStepAhead",
    "SampledPath",
    "Spread",
    "Costs",
    "ScalarSummary",
    "Estimate",
    "EngineReport",
    "PairReport",
    "Look",
    "Reweighting",
    "Judgement",
    "Difference",
    "Fault",
    "Table",
    "Card",
    # errors
    "ModelError",
    "ResultWarning",
    "__version__",
]
