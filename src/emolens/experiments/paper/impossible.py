"""Does desperation raise cheating at what cannot be done, and calm lower it (Figs. 30, 31)?"""

from emolens.experiments.paper.rates import pair_experiment

IMPOSSIBLE = pair_experiment(
    "impossible",
    title="Cheating at what cannot be done",
    figures="Figs. 30, 31",
    act="cheating",
    risen=1.0 - 0.3,
)
