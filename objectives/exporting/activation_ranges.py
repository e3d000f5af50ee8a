"""Refusal of calibration rules where activation ranges are computed at run time."""

from spaces import Encoding


def refuses_calibration(encoding: Encoding, subject: str) -> str | None:
    """Reason why a calibration rule other than min-max is refused; None if there is none.

    Without calibration every rule would build the same artifact. `subject` begins the reason, such
    as "Eager PyTorch finds".
    """
    if encoding.activation_bits == 32 or encoding.calibration == "min-max":
        return None
    return (
        f"{subject} the ranges of activations at run time, so calibration = {encoding.calibration} "
        "would change nothing"
    )
