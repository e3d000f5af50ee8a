"""Checks of finished runs for a sceptic: rebuild, measure again, compare, and tell the noise."""

from search.trust.auditing import Audit, Audits, audit
from search.trust.comparison import Comparison, Row, compare
from search.trust.machine_noise import NOISE_SECONDS, Noise, noise
from search.trust.verification import Check, Verified, verify

__all__ = [
    "NOISE_SECONDS",
    "Audit",
    "Audits",
    "Check",
    "Comparison",
    "Noise",
    "Row",
    "Verified",
    "audit",
    "compare",
    "noise",
    "verify",
]
