"""Gaussian processes on structural features, with exact expected hypervolume improvement."""

from search.samplers.structural.features import generic
from search.samplers.structural.optuna_sampler import factory
from search.samplers.structural.parameters import Parameters
from search.samplers.structural.sampler import Structural

__all__ = ["Parameters", "Structural", "factory", "generic"]
