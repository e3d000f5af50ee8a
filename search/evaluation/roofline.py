"""Facts for the roofline: the work of an artifact, and this host's ceilings for it."""

import json
import platform
import traceback
from collections.abc import Mapping
from typing import Any

from objectives import Work
from objectives.host import write_json
from objectives.roofline import Ceilings
from search.evaluation.context import TrialContext
from search.measuring import Crashed


def roofline_facts(context: TrialContext, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts `work` and `ceilings` of an artifact, as far as they are known.

    Ceilings that cannot be measured are left out, with the reason in the trial's log: they concern
    one chart of the report, unless an objective needs them and then fails.
    """
    if manifest["work"] is None:
        return {}
    work = Work.from_json(manifest["work"])
    facts: dict[str, Any] = {"work": manifest["work"]}
    if work.unknown:
        return facts
    try:
        ceilings = _ceilings(context)
    except Crashed as error:
        traceback.print_exception(error)
        return facts
    rates = {"operations": ceilings.peak(work.precision), "bytes": ceilings.bandwidth(work.bytes)}
    return facts | {"ceilings": rates}


def _ceilings(context: TrialContext) -> Ceilings:
    """Return the ceilings of this host, from the run's cache if a trial on it has asked before.

    This process does not ask itself: it would start an accelerator.
    """
    file = context.cache / "ceilings" / f"{platform.node()}.json"
    if file.is_file():
        return Ceilings.from_json(json.loads(file.read_text()))
    ceilings = context.server.ceilings(context.experiment)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, ceilings.to_json())
    return ceilings
