"""While tests run, every call in emolens is checked for types and shapes.

Two modules are left out, and the packages that would bring them along: `grammar` and `world` draw
words one by one, hold no tensors, and checking their calls took a third of the tests' time.
"""

from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook

LEFT_OUT = {"emolens", "emolens.organism", "emolens.organism.grammar", "emolens.organism.world"}


def modules() -> list[str]:
    """All modules that are checked, found without importing any."""
    root = Path(find_spec("emolens").submodule_search_locations[0])
    found = set()
    for file in root.rglob("*.py"):
        parts = ("emolens", *file.relative_to(root).with_suffix("").parts)
        found.add(".".join(parts).removesuffix(".__init__"))
    return sorted(found - LEFT_OUT)


install_import_hook(modules(), "beartype.beartype")
