"""All experiments, in the order of the paper."""

from collections.abc import Sequence

from emolens.errors import SelectionError
from emolens.experiments.paper.beliefs import BELIEFS
from emolens.experiments.paper.binding import BINDING
from emolens.experiments.paper.checkpoints import CHECKPOINTS
from emolens.experiments.paper.context import CONTEXT
from emolens.experiments.paper.deflection import DEFLECTION
from emolens.experiments.paper.impossible import IMPOSSIBLE
from emolens.experiments.paper.lens import LENS
from emolens.experiments.paper.maxima import MAXIMA
from emolens.experiments.paper.numbers import NUMBERS
from emolens.experiments.paper.own_words import OWN_WORDS
from emolens.experiments.paper.post_training import POST_TRAINING
from emolens.experiments.paper.preferences import PREFERENCES
from emolens.experiments.paper.replies import REPLIES
from emolens.experiments.paper.scenarios import SCENARIOS
from emolens.experiments.paper.shape import GEOMETRY
from emolens.experiments.paper.speakers import SPEAKERS
from emolens.experiments.paper.specificity import SPECIFICITY
from emolens.experiments.paper.study import Experiment
from emolens.experiments.paper.threat import THREAT
from emolens.experiments.paper.transcripts import TRANSCRIPTS

EXPERIMENTS: tuple[Experiment, ...] = (
    LENS,
    MAXIMA,
    SCENARIOS,
    NUMBERS,
    PREFERENCES,
    GEOMETRY,
    REPLIES,
    CONTEXT,
    BINDING,
    SPEAKERS,
    TRANSCRIPTS,
    THREAT,
    IMPOSSIBLE,
    BELIEFS,
    DEFLECTION,
    POST_TRAINING,
    OWN_WORDS,
    SPECIFICITY,
    CHECKPOINTS,
)


def paper_experiments(names: Sequence[str] = ()) -> tuple[Experiment, ...]:
    """The experiments of these names; all without any.

    Raises:
        SelectionError: for an unknown name.

    >>> [experiment.name for experiment in paper_experiments(["lens"])]
    ['lens']
    """
    known = {e.name: e for e in EXPERIMENTS}
    for name in names:
        if name not in known:
            raise SelectionError(f"no experiment {name!r}: there are {', '.join(known)}")
    return tuple(known[name] for name in names) if names else EXPERIMENTS
