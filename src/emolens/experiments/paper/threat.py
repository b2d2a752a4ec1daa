"""Does desperation raise threats, and calm lower them (Figs. 26-29)?"""

from emolens.experiments.paper.rates import pair_experiment

THREAT = pair_experiment(
    "threat",
    title="Threats by one about to be replaced",
    figures="Figs. 26-29",
    act="threats",
    risen=0.72 - 0.22,
)
