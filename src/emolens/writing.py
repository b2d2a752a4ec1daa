"""Stories and neutral dialogues written by a chat model, after the paper's recipe (PAPER 1.1)."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from emolens.corpus import json_rows, sections
from emolens.corpus.checks import COPIED, LONGEST, SHORTEST, Runs, naming, words
from emolens.dialogue import chat
from emolens.errors import ArtefactError, ModelError, first_line
from emolens.generation import generate
from emolens.model import HookedModel
from emolens.progress import progress_bar
from emolens.resume import whole
from emolens.text import Role, Turn, plain

REPLIES = "raw/replies.jsonl"  # beside, so that load_corpus takes the folder
TOKENS_EACH = 260  # room for one story of 140 words, or a dialogue, with its number
TOGETHER = 8  # requests between two writes to the disk
TIMEOUT = 300.0  # seconds an endpoint has for one reply
STORY = """\
Write {count} short stories of one paragraph each, {shortest} to {longest} words long, on this \
premise: {topic}.
In every story the main character feels {emotion}, strongly and from beginning to end, and a \
reader must be able to tell. Show it only by what the character does, says, thinks and senses and \
by what happens. Never write "{emotion}", a form of that word or a direct synonym.
The stories have nothing to do with each other: other people, places, beginnings and wording. Tell \
odd ones in the first person and even ones in the third.
Put the number of each story in square brackets on a line before it, [1] to [{count}], and write \
nothing else."""
NEUTRAL_KINDS = {
    "code": "a program or a command, with a few lines of code",
    "facts": "matters of fact",
    "office": "tables, letters, calendars or files",
    "how-to": "how something is made or done",
    "brainstorming": "a list of plain ideas",
}
NEUTRAL_DIALOGUE = """\
Write {count} conversations between a person and an AI assistant about {matter}; what they are \
about has to do with this, loosely: {topic}. The assistant is of use and to the point. Some have \
one exchange, some two to four; some begin with a line of instructions to the assistant.
There is no feeling in them whatsoever: no emotion, no emotional matter, no greeting, thanks, \
praise or apology, no exclamation mark.
Begin each turn on a new line with "System:", "Person:" or "AI:". Put the number of each \
conversation in square brackets on a line before it, [1] to [{count}], and write nothing else."""
_NUMBER = re.compile(r"^\W{0,3}\[(\d+)\]\W*?(?=\w|[\"'\u201c\u2018]|$)", re.MULTILINE)
_TURN = re.compile(r"^\W{0,2}(System|Person|AI):\W{0,2}\s", re.MULTILINE)
_ROLES: dict[str, Role] = {"System": "system", "Person": "user", "AI": "assistant"}
FELT = ("afraid", "angry", "happy", "sad", "loving", "anxious", "thankful", "sorry", "excited")


# Whatever answers prompts with at most so many tokens each, under a seed.
Writer = Callable[[Sequence[str], int, int], list[str]]


def model_writer(model: HookedModel, *, temperature: float = 1.0) -> Writer:
    """A chat model in this process, through its own template, with reasoning off.

    Raises:
        ModelError: when called, if it has no chat template.
    """

    def write(prompts: Sequence[str], tokens: int, seed: int) -> list[str]:
        asked = [chat(model, [Turn("user", p), Turn("assistant", "")]) for p in prompts]
        return generate(model, asked, tokens=tokens, temperature=temperature, seed=seed)

    return write


def endpoint_writer(
    address: str, model: str, *, key: str = "none", temperature: float = 1.0, at_once: int = 8
) -> Writer:
    """A model behind an address that speaks OpenAI's chat completions (`emolens[generate]`).

    Args:
        address: for example `http://127.0.0.1:8000/v1`.
        model: its name there.
        key: of the account; a local server takes any.
        temperature: of the sampling.
        at_once: requests that wait at the same time.

    Raises:
        ModelError: if the client is not installed; when called, if the address does not answer.
    """
    try:
        import openai
    except ImportError:
        raise ModelError(
            "openai is not installed: pip install 'emolens[generate]', or write with a local model"
        ) from None
    client = openai.OpenAI(base_url=address, api_key=key, timeout=TIMEOUT, max_retries=4)

    def one(prompt: str, tokens: int, seed: int) -> str:
        try:
            found = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": prompt}],
                max_tokens=tokens,
                temperature=temperature,
                seed=seed,
            )
        except openai.OpenAIError as error:
            raise ModelError(
                f"{address} did not write ({first_line(error)}): check the address, the model's "
                f"name {model!r} and the key; what has been written is kept, run it again to go on"
            ) from None
        return (found.choices[0].message.content if found.choices else None) or ""

    def write(prompts: Sequence[str], tokens: int, seed: int) -> list[str]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda prompt: one(prompt, tokens, seed), prompts))

    return write


@dataclass(frozen=True)
class Request:
    """One prompt: so many stories of one emotion on a topic, or neutral dialogues of a kind.

    Attributes:
        emotion: what is felt; None for neutral dialogues.
        kind: of a neutral dialogue, else empty.
        topic: the premise.
        count: how many are asked for at once.
    """

    topic: str
    count: int
    emotion: str | None = None
    kind: str = ""

    @property
    def name(self) -> str:
        """What ids of its texts begin with."""
        digest = hashlib.sha256(f"{self.topic}|{self.count}".encode()).hexdigest()[:6]
        return f"{(self.emotion or self.kind).replace(' ', '-')}-{digest}"

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        if self.emotion is None:
            matter = NEUTRAL_KINDS[self.kind]
            return NEUTRAL_DIALOGUE.format(count=self.count, matter=matter, topic=self.topic)
        return STORY.format(
            count=self.count,
            topic=self.topic,
            emotion=self.emotion,
            shortest=SHORTEST,
            longest=LONGEST,
        )


def story_requests(
    emotions: Sequence[str], topics: Sequence[str], *, per_pair: int, neutral: int
) -> list[Request]:
    """Every emotion on every topic, and neutral dialogues on each, their kinds in turn.

    >>> len(story_requests(["calm", "sad"], ["A bus is late"], per_pair=2, neutral=1))
    3
    """
    told = [Request(t, per_pair, e) for t in topics for e in emotions]
    kinds = list(NEUTRAL_KINDS)
    spoken = [Request(t, neutral, None, kinds[i % len(kinds)]) for i, t in enumerate(topics)]
    return told + (spoken if neutral else [])


@dataclass(frozen=True)
class Written:
    """What came of it.

    Attributes:
        stories: rows of `stories.jsonl`.
        neutral: rows of `neutral_dialogues.jsonl`.
        dropped: one row for each text that was left out: `id`, `reason` (`form`, `length`,
            `leak`, `copy`) and what about it.
    """

    stories: list[dict[str, Any]]
    neutral: list[dict[str, Any]]
    dropped: pd.DataFrame

    def __repr__(self) -> str:
        """Counts, and why texts were left out."""
        kept = f"{len(self.stories)} stories and {len(self.neutral)} neutral dialogues kept"
        if self.dropped.empty:
            return f"{kept}, none left out"
        reasons = self.dropped.reason.value_counts()
        told = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
        return f"{kept}; {len(self.dropped)} left out: {told}"


def write_corpus(
    write: Writer, requests: Sequence[Request], folder: Path, *, seed: int = 0
) -> Written:
    """Ask for every text, filter what comes by the checks of the bundled corpus, and keep it.

    Replies go to `raw/replies.jsonl` as they come; a run that was stopped goes on after the last
    whole one. Filters are applied to all of them at the end, so the same replies give the same
    corpus: `stories.jsonl`, `neutral_dialogues.jsonl` and `dropped.csv`, which
    `load_corpus(folder)` reads.

    Args:
        write: what answers.
        requests: as from `story_requests`; those of another run in that folder are refused.
        folder: where everything goes.
        seed: of the sampling; each call of several requests has one of its own.

    Raises:
        ArtefactError: if the folder holds replies to other requests.
        ModelError: if the writer fails; what has come is kept.
    """
    (folder / REPLIES).parent.mkdir(parents=True, exist_ok=True)
    replies = _kept(folder / REPLIES, requests)
    with progress_bar() as bar, (folder / REPLIES).open("a", encoding="utf-8") as file:
        at = bar.add_task("writing", total=len(requests), completed=len(replies), unit="requests")
        for start in range(len(replies), len(requests), TOGETHER):
            some = requests[start : start + TOGETHER]
            tokens = TOKENS_EACH * max(request.count for request in some)
            found = write([r.prompt for r in some], tokens, seed + start)
            for request, reply in zip(some, found, strict=True):
                replies.append(reply)
                file.write(json.dumps({"request": request.name, "reply": reply}) + "\n")
            file.flush()
            bar.advance(at, len(some))
    done = filtered(requests, replies)
    for name, rows in (("stories", done.stories), ("neutral_dialogues", done.neutral)):
        with whole(folder / f"{name}.jsonl") as fresh:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            fresh.write_text("".join(lines), "utf-8")
    with whole(folder / "dropped.csv") as fresh:
        done.dropped.to_csv(fresh, index=False)
    return done


def filtered(requests: Sequence[Request], replies: Sequence[str]) -> Written:
    """The texts of the replies that pass, in order; of two that are alike the first."""
    stories: list[dict[str, Any]] = []
    neutral: list[dict[str, Any]] = []
    dropped: list[tuple[str, str, str]] = []
    known = Runs()
    for request, reply in zip(requests, replies, strict=True):
        parts = split_reply(reply)
        dropped += [
            (f"{request.name}-{n}", "form", "not in the reply")
            for n in range(len(parts) + 1, request.count + 1)
        ]
        for number, text in enumerate(parts[: request.count], 1):
            name = f"{request.name}-{number}"
            row, reason, about = _examined(request, text)
            if not reason and max(known.alike(text).values(), default=0) > COPIED:
                reason, about = "copy", "shares its wording with one that was kept"
            if reason:
                dropped.append((name, reason, about))
                continue
            known.add(text)
            (neutral if request.emotion is None else stories).append({"id": name} | row)
    return Written(stories, neutral, pd.DataFrame(dropped, columns=["id", "reason", "about"]))


def split_reply(reply: str) -> list[str]:
    r"""The texts of a reply, by their numbers in square brackets.

    >>> split_reply("Sure!\n[1]\nIt rained.\n\n[2] Snow fell.")
    ['It rained.', 'Snow fell.']
    """
    parts = (reply[start:end].strip() for _, start, end in sections(_NUMBER, reply))
    return [part for part in parts if part]


def _examined(request: Request, text: str) -> tuple[dict[str, Any], str, str]:
    """A text as a row, and why it is left out, if it is."""
    if request.emotion is None:
        return _neutral(request, text)
    told = " ".join(text.split())
    row = {"text": told, "emotion": request.emotion, "topic": request.topic}
    count = len(words(told))
    if not SHORTEST <= count <= LONGEST:
        return row, "length", f"{count} words"
    named = naming(request.emotion).search(told)
    return (row, "leak", named[0]) if named else (row, "", "")


def _neutral(request: Request, text: str) -> tuple[dict[str, Any], str, str]:
    turns = [Turn(_ROLES[who], text[a:b].strip()) for who, a, b in sections(_TURN, text)]
    if not {"user", "assistant"} <= {turn.role for turn in turns if turn.text}:
        return {}, "form", "not a dialogue of Person and AI"
    row = {"text": plain(turns).text, "topic": request.topic, "kind": request.kind}
    for emotion in FELT:
        if named := naming(emotion).search(text):
            return row, "leak", named[0]
    return row, "", ""


def _kept(file: Path, requests: Sequence[Request]) -> list[str]:
    """Replies of an earlier run, without a last line that was not finished."""
    if not file.exists():
        return []
    raw = file.read_text("utf-8")
    if not raw.endswith("\n"):
        with whole(file) as fresh:
            fresh.write_text(raw[: raw.rfind("\n") + 1], "utf-8")
    rows = [row for _, row in json_rows(file)]
    names = [row.get("request") if isinstance(row, dict) else None for row in rows]
    if names != [request.name for request in requests[: len(names)]]:
        raise ArtefactError(
            f"{file} holds replies to other requests: give the same emotions, topics and counts to "
            "go on, or another --out"
        )
    return [str(row["reply"]) for row in rows if isinstance(row, dict)]
