"""Errors of a task's code, in the words of whoever wrote the code."""

from search.errors import BadTask
from spaces import Task, said


def fault(task: Task, step: str, error: Exception) -> BadTask:
    """Return the error of a step of a task, such as "model()", for the user.

    A task that reads what a library made has no code of the user: its ValueErrors are written for
    the user as they are.
    """
    if task.reference is not None and isinstance(error, ValueError):
        return BadTask(" ".join(str(error).split()))
    return BadTask(f"{step} failed: {said(error)}")
