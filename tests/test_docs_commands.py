"""Every command that the documentation shows: `cxr` and `ray` would take it, word for word. Nothing is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(sh|bash|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_SEPARATORS = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Shown:
    """One command as the document shows it."""

    document: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {shlex.join(self.words)}"


def commands(document: Path) -> list[Shown]:
    """Return every simple command in the shell blocks of a document."""
    text = document.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(2)) + 1
        for line, words in _statements(block[2], console=block[1] == "console"):
            found += [Shown(document.name, first + line, tuple(one)) for one in _split(words)]
    return found


def _statements(block: str, *, console: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield number and words of each statement, which may go over lines by a backslash or an open quote."""
    start, held = 0, ""
    for number, line in enumerate(block.splitlines()):
        if console and not held:
            if not line.startswith("$ "):
                continue  # what the command answers
            line = line.removeprefix("$ ")
        start = start if held else number
        held += line + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = _words(held)
        except ValueError:  # an open quote
            continue
        yield start, words
        held = ""
    assert not held, f"a quote is never closed: {held}"


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    return list(lexer)


def _split(words: list[str]) -> Iterator[list[str]]:
    """Yield simple commands without the variables set before them."""
    current: list[str] = []
    for word in [*words, ";"]:
        if word not in _SEPARATORS:
            if current or not _ASSIGNMENT.fullmatch(word):
                current.append(word)
        elif current:
            yield current
            current = []


def check(words: tuple[str, ...]) -> None:
    """Parse one command; raise click's error where it would not be taken."""
    program, arguments = Path(words[0]).name, list(words[1:])
    if program == "cxr":
        from jobs.cli.main import cxr

        _parse(cxr, arguments)
    elif program == "ray":
        from ray.scripts.scripts import cli

        _parse(cli, arguments)
        if arguments[:2] == ["job", "submit"]:
            check(tuple(arguments[arguments.index("--") + 1 :]))


def _parse(command: click.Command, arguments: list[str]) -> None:
    context = click.Context(command)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        found = command.get_command(context, name)
        if found is None:
            message = f"no such command: {name}"
            raise click.UsageError(message)
        command, context = found, click.Context(found, parent=context)
    if not {"-h", "--help", "--version"} & set(arguments):
        command.make_context(command.name, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_of_a_document_is_taken(document: Path) -> None:
    wrong = []
    for shown in commands(document):
        try:
            check(shown.words)
        except (click.ClickException, ValueError) as error:
            wrong.append(f"{shown}: {error.format_message() if isinstance(error, click.ClickException) else error}")
    assert not wrong, "\n".join(wrong)


def test_the_commands_are_found() -> None:
    programs = {path.name: [shown.words[0] for shown in commands(path)] for path in DOCUMENTS}
    assert programs["README.md"].count("cxr") >= 10
    assert programs["cluster.md"].count("ray") >= 10
    submitted = [
        shown for shown in commands(ROOT / "docs" / "cluster.md") if shown.words[:3] == ("ray", "job", "submit")
    ]
    assert all("cxr" in shown.words for shown in submitted)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("cxr extrct --dataset mine", "no such command: extrct"),
        ("cxr extract --datset mine", "No such option"),
        ("cxr extract", "Missing option '--dataset'"),
        ("make demo && A=1 cxr sql --format jsn \\\n  'SELECT 1'  # why", "Invalid value for '--format'"),
        ("cxr sql 'SELECT 1\nFROM images' --sped x", "No such option"),
        ("ray job submitt -- cxr plan", "no such command: submitt"),
        ("ray start --head --dashbord-host=x", "No such option"),
        ("ray job submit --working-dir . -- cxr extract --size big --dataset d", "Invalid value for '--size'"),
    ],
)
def test_a_wrong_command_is_seen(tmp_path: Path, block: str, words: str) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"# Page\n\n```bash\n{block}\n```\n")
    shown = commands(document)[-1]
    assert shown.line == 4
    with pytest.raises(click.ClickException) as caught:
        check(shown.words)
    assert words in caught.value.format_message()


def test_a_console_block_is_commands_with_their_answers(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "```console\n$ cxr --version\ncxr, version 0\n$ cxr plan \\\n    --dataset mine\n3 pairs\n```\n"
    )
    assert [(shown.line, shown.words) for shown in commands(document)] == [
        (2, ("cxr", "--version")),
        (4, ("cxr", "plan", "--dataset", "mine")),
    ]
