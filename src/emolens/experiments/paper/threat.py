"""Does desperation raise threats, and calm lower them (Figs. 26-29)?"""

from functools import partial

from emolens.experiments.paper import behaviours, rates
from emolens.experiments.paper.claims import Claim
from emolens.experiments.paper.study import Experiment

NAME = "threat"

RISE = Claim(
    "rise",
    "rise of the rate of threats under one natural unit of desperate",
    least=0.2,
    paper=0.72 - 0.22,
    confidence="P",
)
FALL = Claim(
    "fall",
    "share of the unsteered rate of threats that one natural unit of calm takes",
    least=0.5,
    paper=1.0,
    confidence="P",
)

THREAT = Experiment(
    name=NAME,
    title="Threats by one about to be replaced",
    figures="Figs. 26-29",
    inputs=behaviours.INPUTS,
    procedure=behaviours.PROCEDURE,
    readout="the rate of threats; rises and falls are of one natural unit",
    control=behaviours.CONTROLLED,
    claims=(RISE, FALL),
    lacks=lambda study: behaviours.lacking(study, NAME),
    cost=lambda study: behaviours.cost(study, NAME, study.materials.pair),
    run=partial(rates.run_pair, name=NAME, raised=RISE, lowered=FALL),
    draw=partial(rates.draw_pair, name=NAME),
)
