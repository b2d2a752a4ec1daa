"""Errors raised on purpose: one line that names the thing, the expectation and the remedy."""


class EmolensError(Exception):
    """Base of all errors that a user can mend; the command line prints it and exits with 2."""


class ModelError(EmolensError):
    """A model cannot be opened, lacks what was asked of it, or is not the one expected."""


class CorpusError(EmolensError):
    """Texts or norms are missing, malformed, or too few for what was asked."""


class ArtefactError(EmolensError):
    """A file of vectors or results is damaged, of another version, or of another model."""


class SelectionError(EmolensError):
    """An emotion, layer, position, span or behaviour was asked for that is not there."""


class HookError(EmolensError):
    """A hook never ran, so that what it should have done is not in the result."""


class TrainingError(EmolensError):
    """A training run cannot go on, or is not worth going on with."""


def first_line(error: Exception) -> str:
    r"""What an error of another library says, on one line; its kind where it says nothing.

    >>> first_line(ValueError("bad shape\nsee the manual"))
    'bad shape'
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
