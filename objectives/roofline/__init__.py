"""Roofline: the highest rates of this host, and the time that they allow an artifact."""

from objectives.roofline.ceilings import Ceilings
from objectives.roofline.rates import measure
from objectives.roofline.stored import ceilings_of, place, renewed

__all__ = ["Ceilings", "ceilings_of", "measure", "place", "renewed"]
