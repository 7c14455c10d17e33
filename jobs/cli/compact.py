"""`cxr compact`."""

from __future__ import annotations

from dataclasses import asdict

import click

from jobs.cli.options import json_option, store_option
from jobs.cli.output import emit


@click.command("compact")
@store_option
@click.option("--purge", is_flag=True, help="Also remove all old versions and their files; needs no running job.")
@click.option(
    "--target-mib", type=click.IntRange(1, 4096), default=128, show_default=True, help="How large merged files get."
)
@json_option
def command(store_uri: str, purge: bool, target_mib: int, as_json: bool) -> None:
    """Merge small files into few large ones; others may read and append meanwhile.

    With --purge what was forgotten is gone for good, and results that cite a removed version cannot be looked up again.
    """
    from featurestore.store import Store
    from jobs.compact import compact

    done = compact(Store(store_uri).require(), purge=purge, target_bytes=target_mib << 20)
    sentence = (
        f"{done.files_before} files became {done.files_after}; {done.versions_removed} versions and "
        f"{done.files_removed} files of theirs removed"
    )
    emit(asdict(done), as_json=as_json, sentence=sentence)
