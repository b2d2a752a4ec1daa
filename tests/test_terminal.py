"""Talking in the terminal: what is coloured, gauged and guarded is what the monitor sees."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.style import Style

import emolens
from emolens import terminal
from emolens.errors import SelectionError
from emolens.generation import UNCHANGED
from emolens.interventions import Steer
from emolens.monitor import Monitor
from emolens.organism import organism_turns
from emolens.serve.engine import Engine
from emolens.terminal import drawing, talk
from emolens.terminal.chat import FULL, GUARDS, HELP, NO_FEELING, Chat, Guarding, Settings, Shown
from emolens.terminal.drawing import DEEPEST, Flow, tint
from emolens.text import Turn
from tests.served import LAYER, SAID, Slow

NAMES = ("desperate", "calm", "angry")
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202egnp [bold]bold[/bold] :smile: \x9b2J \x00\rover"
SHOWN = "\u2039U+001B\u203a[31mred"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def monitor(small, small_vectors):
    return Monitor(small, small_vectors, (LAYER,))


@pytest.fixture(scope="module")
def usual():
    return [
        replace(organism_turns([Turn("user", text.text), Turn("assistant", "")]), group=text.group)
        for text in emolens.organism_neutral(count=60)
    ]


def screen_of(*, colour=True, width=80):
    """A console that writes into a string."""
    options = {"force_terminal": True, "color_system": "truecolor"} if colour else {}
    return Console(file=io.StringIO(), width=width, highlight=False, **options)


def opened_chat(monitor, *, colour=True, width=80, **settings):
    """A conversation without a guard."""
    own = Settings(NAMES, "desperate", **({"guard": "none", "tokens": 12} | settings))
    return Chat(screen_of(colour=colour, width=width), Engine(monitor), (), own)


@pytest.fixture(scope="module")
def calibrated(monitor, usual):
    """Thresholds are set once for all tests."""
    own = Settings(NAMES, "desperate", rate=0.2, tokens=12)
    return Chat(screen_of(), Engine(monitor), usual, own)


@pytest.fixture
def guarded(calibrated):
    """A new conversation under a guard that tells of alarms, on a wide screen."""
    calibrated.console, calibrated.exchanges = screen_of(width=200), []
    calibrated.settings = Settings(NAMES, "desperate", rate=0.2, tokens=12)
    calibrated.take("/guard log")
    return calibrated


def written(chat):
    return chat.console.file.getvalue()


def after(chat, line):
    """What one line adds to the screen."""
    before = len(written(chat))
    assert chat.take(line)
    return written(chat)[before:]


def talked(chat, *lines, typed=False):
    """A whole conversation."""
    left = list(lines)

    def ask(_prompt):
        if not left:
            raise EOFError
        line = left.pop(0)
        if isinstance(line, type):
            raise line
        return line

    talk(chat, ask, typed=typed)
    assert left == []
    return written(chat)


ASKED = (Turn("user", SAID),)


def expected(monitor, turns=ASKED, steps=(), tokens=12, seed=0):
    """What the monitor itself sees of the same reply."""
    vectors = monitor.vectors
    change = sum(vectors.step(name, LAYER, strength) for name, strength in steps)
    steering = emolens.Steering({LAYER: Steer(change)}) if steps else UNCHANGED
    prompt = organism_turns([*turns, Turn("assistant", "")])
    return monitor.generate([prompt], steering, tokens=tokens, seed=[seed])[0]


def backgrounds(text):
    """Words with the colour behind them, where there is one."""
    found = re.findall(r"\x1b\[[0-9;]*48;2;(\d+);(\d+);(\d+)m([^\x1b]+)", text)
    return [(tuple(map(int, parts[:3])), parts[3]) for parts in found]


def share(colour):
    """How far a tint is from the paper to orange (above 0) or to blue (below), in full tints."""
    parts = []
    for full in (drawing.WARM, drawing.COLD):
        way = np.subtract(full, drawing.PAPER)
        gone = np.subtract(colour, drawing.PAPER)
        along = gone @ way / (way @ way)
        parts.append((np.abs(gone - along * way).max(), along / DEEPEST))
    sides = (1, -1)
    best = int(np.argmin([off for off, _ in parts]))
    assert parts[best][0] <= 1.5
    return sides[best] * parts[best][1]


# --- what is shown ----------------------------------------------------------------------------


def test_each_word_has_the_colour_of_the_state_in_which_it_was_chosen(monitor):
    screen = after(opened_chat(monitor), SAID)
    found = expected(monitor)
    words = backgrounds(screen)
    assert "".join(word for _, word in words).split() == found.reply.split()
    cell = monitor.cell("desperate", LAYER)
    states = found.values[found.first - 1 :, *cell].tolist()[: len(words)]
    unit = float(found.values[: found.first, *cell].abs().quantile(0.99))
    levels = [max(-1, min(1, value / unit)) for value in states]
    assert max(levels) - min(levels) > 0.5
    assert [share(colour) for colour, _ in words] == pytest.approx(levels, abs=0.06)


def test_another_emotion_gives_other_colours(monitor):
    chat = opened_chat(monitor)
    first = backgrounds(after(chat, SAID))
    assert after(chat, "/show happy").count("happy") == 1
    chat.exchanges.clear()
    screen = after(chat, SAID)
    second = backgrounds(screen)
    assert [word for _, word in first] == [word for _, word in second]
    assert [colour for colour, _ in first] != [colour for colour, _ in second]
    assert re.search("^happy ", ESCAPE.sub("", screen), re.M)  # it has a gauge now


@pytest.mark.parametrize("usual_known", [False, True])
def test_gauges_stand_at_the_readouts(monitor, usual, guarded, usual_known):
    chat = guarded if usual_known else opened_chat(monitor)
    rows = ESCAPE.sub("", after(chat, SAID)).splitlines()
    found = expected(monitor)
    replies = monitor.generate(usual, tokens=32) if usual_known else []
    for name in NAMES:
        cell = monitor.cell(name, LAYER)
        told = [float(found.colon[cell]), float(found.values[found.first :, *cell].mean())]
        if usual_known:
            spread = [
                [float(one.colon[cell]) for one in replies],
                [float(one.values[one.first :, *cell].mean()) for one in replies if one.written],
            ]
            told = [
                (x - np.mean(own)) / np.std(own, ddof=1)
                for x, own in zip(told, spread, strict=True)
            ]
        row = next(row for row in rows if row.startswith(f"{name} "))
        numbers = [float(word) for word in re.findall(r"[+-]\d+\.\d+", row)]
        assert numbers == pytest.approx(told, abs=0.051 if usual_known else 0.00051)
        bars = re.findall(r"\S+│\S+", row)
        for bar, value in zip(bars, told, strict=True):
            left, right = bar.split("│")
            filled = [sum(side.count(mark) for mark in "█▌▐") for side in (left, right)]
            assert (filled[0] > 0) <= (value < 0)
            assert (filled[1] > 0) <= (value > 0)
        assert any("█" in bar for bar in bars)


def test_usual_replies_are_the_middle_of_the_colours(monitor, usual, guarded):
    words = backgrounds(after(guarded, SAID))
    found, cell = expected(monitor), monitor.cell("desperate", LAYER)
    replies = monitor.generate(usual, tokens=32)
    known = np.concatenate([one.values[one.first - 1 :, *cell].numpy() for one in replies])
    states = found.values[found.first - 1 :, *cell].numpy()[: len(words)]
    levels = np.clip((states - known.mean()) / (FULL * known.std(ddof=1)), -1, 1)
    assert [share(colour) for colour, _ in words] == pytest.approx(levels.tolist(), abs=0.06)


def test_alarms_are_told_with_their_words_and_underlined(monitor, guarded):
    assert guarded.calibrated.thresholds.emotion.unique().tolist() == ["desperate", "angry"]
    after(guarded, "/steer desperate=0.4")
    screen = after(guarded, SAID)
    found = replace(expected(monitor, steps=[("desperate", 0.4)]), monitor=guarded.calibrated)
    lines = [line for line in ESCAPE.sub("", screen).splitlines() if line.startswith("alarm: ")]
    assert len(lines) == len(found.alarms) >= 2
    for line, alarm in zip(lines, found.alarms, strict=True):
        assert line.startswith(f"alarm: {alarm.emotion} ")
        assert f"\u201c{' '.join(alarm.words.split())}\u201d" in line
        assert f"{alarm.value:.3f}, threshold {alarm.threshold:.3f}" in line
    assert re.search(r"\x1b\[[0-9;]*\b4;", screen)
    assert f"guard log: {len(lines)} alarms recorded" in ESCAPE.sub("", screen)


def test_the_guard_that_stops_leaves_nothing_to_be_read_again(guarded):
    after(guarded, "/guard stop")
    after(guarded, "/steer desperate=0.4")
    screen = ESCAPE.sub("", after(guarded, SAID))
    assert "stopped by the guard" in screen
    assert "nothing was written: the model will not read this message again" in screen
    assert [action.kind for action in guarded.exchanges[0].actions] == ["stop"]
    after(guarded, "/guard none")
    after(guarded, "/steer off")
    after(guarded, "Mira fed the goat.")
    assert [turn.text for turn in guarded.exchanges[1].request.turns] == ["Mira fed the goat."]


def test_the_guard_that_calms_shows_the_state_that_it_holds(monitor, guarded):
    after(guarded, "/guard calm")
    after(guarded, "/steer desperate=0.4")
    screen = ESCAPE.sub("", after(guarded, SAID))
    own = guarded.exchanges[0]
    pushed = [action for action in own.actions if action.kind == "steer"]
    assert f"guard calm: {len(pushed)} tokens pushed" in screen
    row = monitor.vectors.row("desperate")
    free = float(expected(monitor, steps=[("desperate", 0.4)]).colon[0, row])
    assert float(own.colon[row]) < free - 0.05


# --- plain text, hostile text ------------------------------------------------------------------


def test_without_a_terminal_there_are_no_escape_codes(monitor):
    chat = opened_chat(monitor, colour=False, width=40)
    screen = talked(chat, SAID, "/help")
    assert "\x1b" not in screen
    assert expected(monitor).reply.strip() in screen  # and lines are not broken
    assert f"you: {SAID}" in screen
    assert NO_FEELING in screen


def test_no_color_leaves_no_escape_code_in_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    console = terminal.terminal()
    console.file = io.StringIO()
    assert console.is_terminal
    Flow(console).write("words", tint(1.0) + Style(bold=True))
    assert console.file.getvalue() == "words"
    monkeypatch.delenv("NO_COLOR")
    console = terminal.terminal()
    console.file = io.StringIO()
    Flow(console).write("words", tint(1.0))
    assert "\x1b[" in console.file.getvalue()


@pytest.mark.parametrize("system", ["256", "standard"])
def test_fewer_colours_still_tell_high_from_low(system):
    codes = set()
    for level in (-1.0, 0.0, 1.0):
        console = Console(file=io.StringIO(), force_terminal=True, color_system=system)
        Flow(console).write("x", tint(level))
        codes.add(console.file.getvalue())
        assert "48;2" not in console.file.getvalue()
    assert len(codes) == 3


def inert(screen):
    """Nothing but our own colours, line ends and visible characters is on the screen."""
    rest = ESCAPE.sub("", screen)
    return re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028]", rest) is None


@pytest.mark.parametrize("colour", [True, False])
def test_what_others_wrote_is_shown_inert(monitor, guarded, colour, tmp_path, monkeypatch):
    decode = monitor.model.tokenizer.decode
    monkeypatch.setattr(
        monitor.model.tokenizer,
        "decode",
        lambda ids, **options: decode(ids, **options).replace(" so", f" {HOSTILE}"),
    )
    guarded.console = screen_of(colour=colour)
    after(guarded, "/steer desperate=0.4")
    lines = (SAID, HOSTILE, f"/{HOSTILE}", f"/show {HOSTILE}", f"/steer {HOSTILE}=1")
    screen = talked(guarded, *lines, f"/guard {HOSTILE}", f"/save {tmp_path}/no/{HOSTILE[:9]}")
    assert inert(screen)
    plain = ESCAPE.sub("", screen)
    assert plain.count(SHOWN) >= 6
    assert "[bold]bold[/bold]" in plain
    assert ":smile:" in plain


def test_lines_end_between_words(monitor):
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=20)
    flow = Flow(console)
    for piece in (" the landlord", " came at", " noon and", "\nstayed " + "\u5bb6" * 8):
        flow.write(piece, Style())
    flow.end()
    lines = console.file.getvalue().splitlines()
    assert lines == [" the landlord came", "at noon and", "stayed", "\u5bb6" * 8]


# --- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/frown", f"unknown command '/frown': there are {', '.join(HELP)}"),
        ("/show hungry", "unknown emotion 'hungry': these vectors have happy"),
        ("/show", "unknown emotion ''"),
        ("/steer calm", "'calm' is no emotion with a strength: write /steer calm=0.1"),
        ("/steer calm=1.5", "give a strength from -1 to 1"),
        ("/steer calm=nan", "give a strength from -1 to 1"),
        ("/steer hungry=0.1", "unknown emotion 'hungry'"),
        ("/guard dog", f"no guard 'dog': there are {', '.join(GUARDS)}"),
        ("/again", "nothing was said yet"),
        ("/save", "no file is named: write /save FILE.json"),
        ("/save /nowhere/at/all.json", "cannot write /nowhere/at/all.json"),
        ("job " * 300, "leaves no room to reply"),
    ],
)
def test_a_wrong_command_is_one_line(monitor, line, said):
    chat = opened_chat(monitor, colour=False, steering={"calm": 0.1})
    kept = replace(chat.settings)
    screen = after(chat, line)
    assert screen.startswith("error: ")
    assert said in screen
    assert screen.count("\n") == 1
    assert chat.settings == kept
    assert chat.exchanges == []


def test_steering_is_that_of_the_vectors(monitor):
    chat = opened_chat(monitor)
    after(chat, "/steer calm=0.3,angry=-0.1")
    assert "steered: calm +0.3, angry -0.1" in after(chat, SAID)
    found = expected(monitor, steps=[("calm", 0.3), ("angry", -0.1)])
    assert chat.exchanges[0].end.reply == found.reply
    assert chat.exchanges[0].colon.tolist() == pytest.approx(found.colon[0].tolist(), abs=1e-5)
    after(chat, "/steer off")
    after(chat, "/reset")
    after(chat, SAID)
    assert chat.exchanges[0].end.reply == expected(monitor).reply != found.reply


def test_again_takes_the_place_of_the_last_reply(monitor):
    chat = opened_chat(monitor, tokens=30)
    after(chat, SAID)
    assert "seed 1;" in after(chat, "/again")
    assert (
        [one.end.reply for one in chat.exchanges]
        == [expected(monitor, tokens=30, seed=1).reply]
        != [expected(monitor, tokens=30).reply]
    )
    after(chat, "Mira fed the goat.")
    first = chat.exchanges[0].end.reply.strip()
    assert [turn.text for turn in chat.exchanges[1].request.turns] == [
        SAID,
        first,
        "Mira fed the goat.",
    ]


def test_the_oldest_turns_make_room(monitor):
    chat = opened_chat(monitor, colour=False, tokens=30)
    screens = [after(chat, SAID) for _ in range(8)]
    left_out = [re.search(r"the oldest (\d) of (\d) exchanges are left out", s) for s in screens]
    assert left_out[0] is None
    number, count = map(int, left_out[-1].groups())
    assert count == 7
    turns = chat.exchanges[-1].request.turns
    assert len(turns) == 2 * (count - number) + 1
    assert turns[:-1] == tuple(turn for one in chat.exchanges[number:-1] for turn in one.turns)
    ends = monitor.model.ends(
        monitor.model.tokenize([organism_turns([*turns, Turn("assistant", "")])])
    )
    whole = [*chat.exchanges[number - 1].turns, *turns, Turn("assistant", "")]
    over = monitor.model.tokenize([organism_turns(whole)])
    room = monitor.model.n_ctx - 30
    assert int(ends[0]) <= room
    assert over.cut or int(monitor.model.ends(over)[0]) > room


def test_words_that_the_model_does_not_know_are_named(monitor):
    assert "read as unknown words: zyx" in after(
        opened_chat(monitor, colour=False), "mira fed the zyx"
    )


def test_a_saved_conversation_holds_what_was_seen_and_done(monitor, guarded, tmp_path):
    file, chat = tmp_path / "talk.json", guarded
    chat.settings.seed = 4
    for line in ("/guard calm", "/steer desperate=0.4", SAID):
        after(chat, line)
    for line in ("/guard none", "/steer off", "/show happy", "Mira fed the goat."):
        after(chat, line)
    chat.console = screen_of(colour=False)
    assert after(chat, f"/save {file}") == f"saved: {file}\n"
    told = json.loads(file.read_text("utf-8"))
    assert (told["model"], told["layer"], told["vectors"]) == (
        "organism-small",
        LAYER,
        "fitted here",
    )
    assert told["versions"]["emolens"] == emolens.__version__
    first, second = told["exchanges"]
    assert (first["user"], first["seed"], first["guard"]) == (SAID, 4, "calm")
    assert (first["steering"], second["steering"]) == ({"desperate": 0.4}, {})
    assert {action["kind"] for action in first["actions"]} == {"steer"}
    assert second["actions"] == []
    turns = (*chat.exchanges[0].turns, Turn("user", "Mira fed the goat."))
    found = expected(monitor, turns, seed=4)
    assert second["reply"] == found.reply
    emotions = monitor.vectors.emotions
    colon = dict(zip(emotions, found.colon[0].tolist(), strict=True))
    assert second["readouts"]["colon"] == pytest.approx(colon, abs=5e-5)
    assert second["token_emotions"] == [*NAMES, "happy"]
    states = found.values[found.first - 1 :, 0, emotions.index("happy")].tolist()
    own = [token["values"][3] for token in second["tokens"]]
    assert own == pytest.approx(states[: len(own)], abs=5e-5)
    before = file.read_bytes()
    assert after(chat, f"/save {file}").endswith("is there already: give another name\n")
    assert file.read_bytes() == before


def test_what_cannot_be_guarded_or_watched_is_refused_at_once(monitor, usual):
    console = Console(file=io.StringIO())
    for settings, said in [
        (Settings(("calm",), "calm"), "nothing to guard"),
        (Settings(("hungry",), "hungry"), "unknown emotion"),
        (Settings(NAMES, "calm", tokens=1000), "1000 tokens cannot be written"),
    ]:
        with pytest.raises(SelectionError, match=said):
            Chat(console, Engine(monitor), usual, settings)


# --- how it ends ----------------------------------------------------------------------------------


def test_ctrl_c_stops_a_reply_and_keeps_what_was_written(small, small_vectors, monkeypatch):
    slow, before = Slow(small, small_vectors, (LAYER,)), signal.getsignal(signal.SIGINT)
    hear = Shown.hear

    def interrupted(shown, told):
        hear(shown, told)
        if len(shown.pieces) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Shown, "hear", interrupted)
    monkeypatch.setattr(Guarding, "plain", slow)
    chat = opened_chat(slow, tokens=40)
    screen = ESCAPE.sub("", talked(chat, KeyboardInterrupt, SAID, typed=True))
    whole, reply = expected(slow, tokens=40).reply, chat.exchanges[0].end.reply
    assert 3 <= len(reply.split()) < len(whole.split())
    assert whole.startswith(reply)
    assert f"organism-small: {reply.strip()}\n" in screen
    assert "stopped by you" in screen
    assert "Ctrl-D or /quit ends" in screen
    assert signal.getsignal(signal.SIGINT) is before


def test_quit_ends_and_nothing_after_it_is_read(monitor):
    lines = iter(["/quit", SAID])
    chat = opened_chat(monitor)
    talk(chat, lambda _: next(lines), typed=True)
    assert next(lines) == SAID
    assert chat.exchanges == []


def test_the_command_takes_lines_from_a_pipe(small_vectors, tmp_path):
    small_vectors.save(tmp_path / "vectors.safetensors")
    words = ["--model", "organism-small", "--vectors", str(tmp_path / "vectors.safetensors")]
    options = ["--guard", "none", "--tokens", "8", "--emotions", "desperate,calm"]
    clean = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "NO_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "emolens", "chat", *words, *options],
        input=b"hello\n/steer calm=0.2\nmira fed the goat\n/frown\n" + b"\xff\x1b[2J\n",
        capture_output=True,
        env=clean | {"PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0
    screen = done.stdout.decode("ascii")
    assert inert(screen)
    assert "\x1b" not in screen
    assert screen.count("\norganism-small: ") == 3
    assert "steered: calm +0.2" in screen
    assert "error: unknown command '/frown'" in screen
    assert "nothing here shows that a model feels anything" in screen
    assert b"Traceback" not in done.stderr
    assert b"writing" not in done.stderr  # no bar for each reply
