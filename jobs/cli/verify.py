"""`cxr verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.cli.options import address_option, json_option, store_option
from jobs.cli.output import emit

if TYPE_CHECKING:
    from jobs.verify import Verification


@click.command("verify")
@store_option
@click.option(
    "--sample", type=click.IntRange(0), default=8, show_default=True, help="How many vectors to compute again."
)
@click.option("--seed", type=int, help="Decides which vectors; drawn where absent, and said in the answer.")
@click.option("--weights", help="File or folder, for vectors of weights that were given by path.")
@address_option
@click.option("--no-ray", is_flag=True, help="Everything in this process.")
@json_option
def command(
    store_uri: str, sample: int, seed: int | None, weights: str | None, address: str | None, no_ray: bool, as_json: bool
) -> int:
    """Look whether the store is whole: checksums of all files, keys, and some vectors computed again.

    Ends with 1 where something is damaged, double, different, or has lost its image or spec. Orphans, left by jobs
    that died, are no harm.
    """
    from featurestore.store import Store
    from jobs.verify import verify
    from jobs.workers import Workers

    store = Store(store_uri).require()
    with Workers(use_ray=not no_ray, address=address) as workers:
        found = verify(store, workers, sample=sample, seed=seed, weights=weights)
    document = found.document()
    for line in [*found.damaged, *found.mismatches, *found.notes]:
        click.echo(line, err=True)
    emit(document, as_json=as_json, sentence=_sentence(found))
    return 1 if found.harm else 0


def _sentence(found: Verification) -> str:
    words = [
        "{rows} vectors, {distinct_keys} distinct keys; {checksum_errors} checksum errors; {recomputed} recomputed "
        "(seed {seed}), {mismatched} mismatched; {orphans} orphans".format_map(found.document())
    ]
    double = [name for name, state in found.tables.items() if state.rows != state.distinct_keys]
    words += [f"double keys in {', '.join(double)}"] if double else []
    lost = (("image", found.without_image, "images"), ("spec", found.without_spec, "specs"))
    words += [f"{count} vectors whose {what} is not in {table}" for what, count, table in lost if count]
    return "; ".join(words)
