"""The errors a user can meet, each with the exit code the command line gives it."""


class CxrError(Exception):
    """Something went wrong and was understood; the message names value, expectation and remedy."""

    exit_code = 1


class UsageError(CxrError):
    """The request or its input cannot be used (exit 2); nothing was changed."""

    exit_code = 2


class HarmError(CxrError):
    """Something was lost, failed or found damaged (exit 1)."""

    exit_code = 1


class StoppedError(CxrError):
    """Stopped with work left; the same command goes on from here (exit 3)."""

    exit_code = 3


class ImageRejected(CxrError):
    """One image cannot be used; it becomes a row of `rejects` and nothing else is affected.

    Parameters
    ----------
    stage : str
        Where it happened: ``path``, ``decode``, ``colour``, ``size``, ``label``, ``row``,
        ``roi``, ``duplicate``, ``changed``, ``forgotten``, ``model``.
    reason : str
        One sentence for a person.
    retryable : bool
        Whether the same bytes could succeed later (a file that is missing now, a worker that died).
    """

    def __init__(self, stage: str, reason: str, *, retryable: bool = False) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        """Let the error cross process borders with its fields."""
        return (_rebuild, (self.stage, self.reason, self.retryable))


def _rebuild(stage: str, reason: str, retryable: bool) -> ImageRejected:
    return ImageRejected(stage, reason, retryable=retryable)
