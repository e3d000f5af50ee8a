"""Rules for the ranges of activations, where ranges are found at run time instead."""

from spaces import Encoding


def uncalibrated(encoding: Encoding, who: str) -> str | None:
    """Return why a rule other than the first is refused: it would build the same artifact."""
    if encoding.activation_bits == 32 or encoding.calibration == "min-max":
        return None
    return (
        f"{who} the ranges of activations at run time, so calibration = {encoding.calibration} "
        "would change nothing"
    )
