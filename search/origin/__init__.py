"""Origin of a run: what its records were made from, compared when the run is continued."""

from search.origin.continuation import Change, Continuation, changes_since, continued
from search.origin.origin import Origin

__all__ = ["Change", "Continuation", "Origin", "changes_since", "continued"]
