"""The technique quantize.mixed: a separate number of bits for each layer, with a given mean."""

from spaces.techniques.quantize.mixed.technique import Mixed

__all__ = ["Mixed"]
