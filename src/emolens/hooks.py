"""Read and change what flows in a run: hooks live inside a context and must have run by its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from emolens.errors import HookError
from emolens.interventions import Intervention
from emolens.model import HookedModel
from emolens.sites import RESID_POST, Site


@contextmanager
def hooked(model: HookedModel, interventions: Mapping[Site, Intervention]) -> Iterator[None]:
    """Apply interventions to every run inside the context.

    They are installed on entering and removed on any exit.

    Args:
        model: the hooked model.
        interventions: what to do at which site.

    Raises:
        SelectionError: for a layer or place that the model lacks.
        HookError: on leaving, if an intervention never ran: its "effect" would be nothing.

    >>> import torch, emolens
    >>> model = emolens.load("organism")
    >>> tokens = model.tokenize(["mira fed the goat ."])
    >>> with emolens.hooked(model, {emolens.Site(3): emolens.Steer(torch.zeros(model.d_model))}):
    ...     logits = model.forward(tokens.ids, tokens.mask)
    """
    model.check_sites(interventions)
    _ = model.fingerprint  # of the model itself: inside, it would be kept of the changed stream
    ran = dict.fromkeys(interventions, 0)

    def hook_for(site: Site, change: Intervention):
        def hook(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 (the host passes hook= by name)
            ran[site] += 1
            return change(value)

        return site.name, hook

    with model.host.hooks(fwd_hooks=[hook_for(s, i) for s, i in interventions.items()]):
        yield
    idle = [site.name for site, times in ran.items() if times == 0]
    if idle:
        raise HookError(f"the hook at {idle[0]} never ran: run {model.name!r} inside the context")


@contextmanager
def reading(
    model: HookedModel, layers: tuple[int, ...], kind: str = RESID_POST
) -> Iterator[dict[int, Float[Tensor, "text token *width"]]]:
    """Collect the residual stream after each layer of the runs inside the context (the last run's).

    What is read is the stream after interventions of an enclosing `hooked`. With another `kind` of
    `Site` it is what that has at each layer, of the shape told there.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Intervention:
        def change(value: Tensor) -> Tensor:
            found[layer] = value
            return value

        return change

    with hooked(model, {Site(layer, kind): keep(layer) for layer in layers}):
        yield found
