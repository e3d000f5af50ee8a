"""The technique quantize.mixed: another number of bits for every layer, with a given mean."""

from spaces.techniques.quantize.mixed.technique import Mixed

__all__ = ["Mixed"]
