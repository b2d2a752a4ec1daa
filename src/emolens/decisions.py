"""Run a behaviour on a model: probabilities and logit difference at the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.behaviour import Behaviour
from emolens.errors import SelectionError
from emolens.model import HookedModel
from emolens.text import Text, Tokens, groups_of


@dataclass(frozen=True)
class Decision:
    """What the logits at the decision say, one number per text.

    Attributes:
        probability: of each class: the sum over its words of the next-token probability.
        logit_difference: log-sum-exp of the target's logits minus that of all other classes';
            positive where the target is likelier; in logits.
        target: name of the target class.
    """

    probability: Mapping[str, Float[Tensor, " text"]]
    logit_difference: Float[Tensor, " text"]
    target: str

    @property
    def p(self) -> Float[Tensor, " text"]:
        """P(target), 0..1."""
        return self.probability[self.target]

    @property
    def legal(self) -> Float[Tensor, " text"]:
        """Probability on any class at all; where it falls, the text itself is breaking."""
        return torch.stack(list(self.probability.values())).sum(0)


def prompt_tokens(
    model: HookedModel, prompts: Sequence[Text], what: str
) -> tuple[Tokens, Int[Tensor, " text"]]:
    """The tokens of prompts and the place of the last of each, a closing special one not counted.

    Raises:
        ModelError: for an encoder.
        SelectionError: if a prompt is longer than the context, so that its end is lost, or there
            are none.
    """
    model.require_logits(what)
    if not prompts:
        raise SelectionError(f"{what} has no prompts: give at least one")
    tokens = model.tokenize(prompts)
    if tokens.cut:
        raise SelectionError(
            f"{len(tokens.cut)} prompts of {what} are longer than the context of {model.n_ctx} "
            "tokens, so that what comes next is cut off: shorten them"
        )
    return tokens, model.ends(tokens) - 1


def option_ids(
    model: HookedModel, prompts: Sequence[Text], options: Sequence[str]
) -> list[list[Int[Tensor, " token"]]]:
    """The tokens of each option as it goes on from each prompt.

    A word alone may have other tokens than in a text (SentencePiece begins a text with a blank), so
    it is read together with the last word of the prompt; where both melt into one token, it is read
    as after a new line.

    Raises:
        SelectionError: if there are no options, or one has no token or an unknown one.
    """
    if not options:
        raise SelectionError("no options to choose from: give at least one word")
    endings = ["".join(text.text.split()[-1:]) for text in prompts]
    found = {e: [_after(model, e, option) for option in options] for e in set(endings)}
    return [found[ending] for ending in endings]


def _after(model: HookedModel, ending: str, option: str) -> Int[Tensor, " token"]:
    def ids(text: str) -> list[int]:
        return model.tokenizer(text, add_special_tokens=False)["input_ids"]

    for before in (ending, "\n"):
        own, both = ids(before), ids(before + option)
        if both[: len(own)] == own and (rest := both[len(own) :]):
            if model.tokenizer.unk_token_id in rest:
                break
            return torch.tensor(rest)
    raise SelectionError(
        f"option {option!r} must be of known tokens of {model.name!r}; it is "
        f"{model.tokenizer.convert_ids_to_tokens(ids(option))}"
    )


def class_ids(model: HookedModel, behaviour: Behaviour) -> dict[str, Int[Tensor, " word"]]:
    """Token ids of each class.

    Raises:
        SelectionError: for a word that is not exactly one known token, the same after every
            prompt, or that two classes share.
    """
    words = [(name, word) for name, own in behaviour.classes.items() for word in own]
    after = option_ids(model, behaviour.prompts, [word for _, word in words])
    found: dict[str, list[int]] = {name: [] for name in behaviour.classes}
    seen: set[int] = set()
    for column, (name, word) in enumerate(words):
        rows = {tuple(ids[column].tolist()) for ids in after}
        row = next(iter(rows))
        if len(rows) > 1 or len(row) != 1 or row[0] in seen:
            told = [model.tokenizer.convert_ids_to_tokens(list(ids)) for ids in sorted(rows)]
            raise SelectionError(
                f"{word!r} of class {name!r} must be one token of {model.name!r}, of no other "
                f"class and the same after every prompt; it is {told}"
            )
        seen.add(row[0])
        found[name].append(row[0])
    return {name: torch.tensor(ids) for name, ids in found.items()}


@dataclass(frozen=True, eq=False)
class Trial:
    """A behaviour made ready for one model: prompts as tokens, classes as ids."""

    model: HookedModel
    behaviour: Behaviour
    tokens: Tokens
    final: Int[Tensor, " text"]
    ids: Mapping[str, Int[Tensor, " word"]]

    @classmethod
    def prepare(cls, model: HookedModel, behaviour: Behaviour) -> "Trial":
        """Tokenise the prompts.

        Raises:
            ModelError: for an encoder.
            SelectionError: if a prompt is longer than the context, so that its decision is lost.
        """
        what = f"behaviour {behaviour.name!r}"
        tokens, final = prompt_tokens(model, behaviour.prompts, what)
        return cls(model, behaviour, tokens, final, class_ids(model, behaviour))

    @property
    def groups(self) -> tuple[str, ...]:
        """Template or topic of each prompt, what intervals are clustered by."""
        return tuple(groups_of(self.behaviour.prompts))

    def logits(self) -> Float[Tensor, "text vocab"]:
        """Next-token logits at the decision, under whatever hooks are in force."""
        logits = self.model.logits_at(self.tokens.ids, self.tokens.mask, self.final)
        return logits.float().cpu()

    def decide(self, logits: Float[Tensor, "text vocab"]) -> Decision:
        """Read probabilities and the logit difference."""
        p = logits.softmax(-1)
        target = self.behaviour.target
        others = torch.cat([ids for name, ids in self.ids.items() if name != target])
        return Decision(
            probability={name: p[:, ids].sum(-1) for name, ids in self.ids.items()},
            logit_difference=logits[:, self.ids[target]].logsumexp(-1)
            - logits[:, others].logsumexp(-1),
            target=target,
        )

    def shuffled(self, seed: int) -> "Trial":
        """The same prompts with other words of the vocabulary for those of each class, by chance.

        A behaviour of nothing: what attribution says of the real one should not hold for it.
        """
        special = set(self.model.tokenizer.all_special_ids)
        known = torch.tensor([i for i in range(len(self.model.tokenizer)) if i not in special])
        count = sum(len(ids) for ids in self.ids.values())
        draw = torch.Generator().manual_seed(seed)
        words = known[torch.randperm(len(known), generator=draw)[:count]]
        parts = words.split([len(ids) for ids in self.ids.values()])
        return replace(self, ids=dict(zip(self.ids, parts, strict=True)))

    @torch.inference_mode()
    def run(self) -> Decision:
        """One pass over the prompts, under whatever hooks are in force."""
        return self.decide(self.logits())
