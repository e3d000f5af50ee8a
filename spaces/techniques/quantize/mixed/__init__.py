"""A width for every layer: few bits where they cost little, more where they cost much."""

from spaces.techniques.quantize.mixed.technique import Mixed

__all__ = ["Mixed"]
