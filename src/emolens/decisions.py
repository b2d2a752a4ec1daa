"""Run a behaviour on a model: probabilities and logit difference at the decision."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emolens.behaviour import Behaviour
from emolens.errors import SelectionError
from emolens.model import HookedModel
from emolens.positions import last, pick
from emolens.text import Tokens


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


def class_ids(model: HookedModel, behaviour: Behaviour) -> dict[str, Int[Tensor, " word"]]:
    """Token ids of each class.

    Raises:
        SelectionError: for a word that is not exactly one known token, or that two classes share.
    """
    found = {}
    seen: set[int] = set()
    for name, words in behaviour.classes.items():
        ids = []
        for word in words:
            row = model.tokenizer(word, add_special_tokens=False)["input_ids"]
            if len(row) != 1 or row[0] == model.tokenizer.unk_token_id or row[0] in seen:
                raise SelectionError(
                    f"{word!r} of class {name!r} must be one token of {model.name!r}, of no other "
                    f"class; it is {model.tokenizer.convert_ids_to_tokens(row)}"
                )
            seen.add(row[0])
            ids.append(row[0])
        found[name] = torch.tensor(ids)
    return found


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
        model.require_logits(f"behaviour {behaviour.name!r}")
        tokens = model.tokenize(behaviour.prompts)
        if tokens.cut:
            raise SelectionError(
                f"{len(tokens.cut)} prompts of {behaviour.name!r} are longer than the context of "
                f"{model.n_ctx} tokens, so their decision is cut off: shorten them"
            )
        final = pick(last, behaviour.prompts, tokens).mask.long().argmax(1)
        return cls(model, behaviour, tokens, final, class_ids(model, behaviour))

    @property
    def groups(self) -> tuple[str, ...]:
        """Template or topic of each prompt, what intervals are clustered by."""
        return tuple(t.group or str(i) for i, t in enumerate(self.behaviour.prompts))

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
