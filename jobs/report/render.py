"""Write the report: one HTML file that asks for nothing from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifiers.evaluation import Evaluation
    from featurestore.store.store import Store


@dataclass(frozen=True)
class ReportInfo:
    """The file written: where, how large (bytes), and how long it took (seconds)."""

    path: Path
    bytes: int
    seconds: float


def build_report(
    store: Store,
    evaluation: Evaluation,
    *,
    title: str,
    dataset: str,
    split: str,
    out: Path,
    experiment: Mapping[str, Any] | None = None,
    specs: Mapping[str, str] | None = None,
    seconds: Mapping[str, float] | None = None,
    explanations: Sequence[Mapping[str, Any]] = (),
    phantom: bool | None = None,
) -> ReportInfo:
    """Write one offline HTML file about an evaluation.

    Parameters
    ----------
    store : Store
        Read only. Of `runs`, ``seconds`` is JSON ``{stage: seconds}`` with, for ``extract``, ``by_backbone``:
        ``{backbone: seconds}``; ``total`` or ``wall`` is the time on the clock, else the run's two times give it.
    evaluation : Evaluation
    title : str
        ": pipeline check, not a result" is added where the weights are random or phantom-trained, or the data phantom.
    dataset, split : str
    out : Path
        Its folder is made; a file already there is replaced.
    experiment : mapping, optional
        The experiment's settings, nested as they are; shown as dotted keys.
    specs : mapping of backbone to spec_id, optional
        The specs evaluated. Where absent, those the split's models were fitted on.
    seconds : mapping of str to float, optional
        Stages of the job that is writing this report, which has no row in `runs` yet.
    explanations : sequence of mapping
        ``image_id``, ``label``, ``caption``, ``numbers`` (name to float), and ``png_bytes`` where a picture may be
        shown. No other pixel of a patient enters the file.
    phantom : bool, optional
        Whether the images are generated; where absent, read from the data set's ingest jobs and its name.

    Returns
    -------
    ReportInfo

    Raises
    ------
    UsageError
        If a picture is no PNG.
    """
    # Drawing loads matplotlib and scikit-learn, two seconds that a command line of many commands should not pay.
    from jobs.report.context import Request, context

    begun = time.monotonic()
    request = Request(title, dataset, split, experiment or {}, specs, seconds or {}, explanations, phantom)
    html = render(context(store, evaluation, request))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return ReportInfo(out, out.stat().st_size, time.monotonic() - begun)


def render(variables: Mapping[str, Any]) -> str:
    """Return the page; every variable that is no `markupsafe.Markup` is escaped, whatever the template's name."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jobs"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(variables)
