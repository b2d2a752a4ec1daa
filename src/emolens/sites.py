"""Where an activation is read or written: the only place that spells hook names."""

from collections.abc import Sequence
from dataclasses import dataclass

from emolens.errors import SelectionError

RESID_POST = "resid_post"
RESID_PRE = "resid_pre"
ATTN_OUT = "attn_out"
MLP_OUT = "mlp_out"
Z = "z"
_HOOKS = {
    RESID_POST: "hook_resid_post",
    RESID_PRE: "hook_resid_pre",
    ATTN_OUT: "hook_attn_out",
    MLP_OUT: "hook_mlp_out",
    Z: "attn.hook_z",
}


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A place in one block: by default the residual stream after it.

    `Site(3)` is `blocks.3.hook_resid_post`, which is Hugging Face `hidden_states[4]` for every
    block but the last (Hugging Face's last entry comes after the final norm).

    Attributes:
        layer: 0-based block.
        kind: `"resid_post"`, the stream after the block; `"resid_pre"`, before it; `"attn_out"` or
            `"mlp_out"`, what its attention or its MLP adds to the stream, thus after the norm that
            follows them in Gemma 2 and 3 and OLMo 2; each [text token d_model]. `"z"`, what each
            head gives before the output projection, [text token head d_head].

    Raises:
        SelectionError: for another kind.

    >>> Site(3).name
    'blocks.3.hook_resid_post'
    >>> Site(3, "z").name
    'blocks.3.attn.hook_z'
    """

    layer: int
    kind: str = RESID_POST

    def __post_init__(self) -> None:
        """See that the kind is one that has a name."""
        if self.kind not in _HOOKS:
            raise SelectionError(f"no site {self.kind!r} in a block: give one of {[*_HOOKS]}")

    @property
    def name(self) -> str:
        """The hook name that both lines of TransformerLens know."""
        return f"blocks.{self.layer}.{_HOOKS[self.kind]}"


def two_thirds(layers: Sequence[int]) -> int:
    """The layer that ends nearest to two thirds of the depth, where the paper reads.

    Args:
        layers: all of a model, or those that vectors have: then two thirds through these.

    >>> [two_thirds(range(n)) for n in (1, 2, 4, 5, 6, 12)]
    [0, 0, 2, 2, 3, 7]
    >>> two_thirds((5, 9))
    5
    """
    return layers[round(2 / 3 * len(layers)) - 1]
