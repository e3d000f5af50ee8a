"""The Memory interface: values that settings share, computed once and kept between trials."""

import abc
from collections.abc import Callable, Mapping
from typing import Any


class Memory(abc.ABC):
    """Values by what they follow from, for techniques that edit a model.

    Statistics of a model, such as the damage that the removal of a channel does, are the same for
    every setting of a technique. A search keeps them; where nothing is kept they are computed again
    at each call, with the same result.
    """

    @abc.abstractmethod
    def remembered(
        self, kind: str, follows_from: Mapping[str, Any], compute: Callable[[], Any]
    ) -> Any:
        """Return the value of `compute`, or an equal one that was computed before.

        `kind` names the value, as a word for file names. `follows_from` is plain data that
        determines the value for the task of the search; a model is named by its `identity`. Values
        are numbers, strings, None and tensors, and tuples, lists and dicts of them.
        """


class Forgetful(Memory):
    """Computes every value: for techniques that are used alone."""

    def remembered(
        self, kind: str, follows_from: Mapping[str, Any], compute: Callable[[], Any]
    ) -> Any:
        """Return the value of `compute`."""
        del kind, follows_from
        return compute()


FORGETFUL = Forgetful()
