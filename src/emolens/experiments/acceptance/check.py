"""One threshold."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One measured number and the bounds it must lie in."""

    name: str
    found: float
    least: float = float("-inf")
    most: float = float("inf")

    @property
    def passed(self) -> bool:
        """Whether the number lies within its bounds."""
        return bool(self.least <= self.found <= self.most)
