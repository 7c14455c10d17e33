"""What Pillow, pydicom and NumPy raise on broken bytes, turned into a rejected image."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from featurestore.errors import ImageRejected

# What hostile bytes were seen to raise out of the three libraries. MemoryError is not among them: it says something
# about this machine, not about the image. `Warning` is, for runs that turn warnings into errors.
_CONTENT_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Warning,
)


def words_of(error: BaseException) -> str:
    """Return the library's own words on one line, without memory addresses, which would differ in every run."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"<?(\w[\w.]*)?( object)? at 0x[0-9a-fA-F]+>?", "the file", text)[:300]


@contextmanager
def rejecting(doing: str, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn a library's error about the content into `ImageRejected`.

    Parameters
    ----------
    doing : str
        Start of the sentence, such as ``"cannot decode the PNG"``.
    also : tuple of exception types
        What a library raises beside the built-in ones.

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``decode``.
    """
    try:
        yield
    except _CONTENT_ERRORS + also as error:
        raise ImageRejected("decode", f"{doing}: {words_of(error)}") from error
