"""Where an activation is read or written: the only place that spells hook names."""

from dataclasses import dataclass

RESID_POST = "resid_post"


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """The residual stream after one block.

    `Site(3)` is `blocks.3.hook_resid_post`, which is Hugging Face `hidden_states[4]` for every
    block but the last (Hugging Face's last entry comes after the final norm).

    >>> Site(3).name
    'blocks.3.hook_resid_post'
    """

    layer: int

    @property
    def name(self) -> str:
        """The hook name that both lines of TransformerLens know."""
        return f"blocks.{self.layer}.hook_{RESID_POST}"
