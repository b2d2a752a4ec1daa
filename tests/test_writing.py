import copy
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

import emolens
from emolens import writing
from emolens.cli import app
from emolens.errors import ArtefactError, ModelError

TOPICS = ["A bus is late", "A lamp is mended"]


def story(number, *, words=100, extra=""):
    """So many words that no other story has, and whatever is to be found."""
    return " ".join(f"w{number}x{i}." for i in range(words)) + f" {extra}"


def answer(prompt, number):
    """What a well-behaved model writes."""
    if "conversations" in prompt:
        return f"[1]\nPerson: Convert {number} feet.\nAI: That is {number * 0.3:.1f} metres."
    return f"Of course!\n\n[1]\n{story(2 * number)}\n\n[2] {story(2 * number + 1)}\n"


class Model:
    """A writer that counts, and stops where it is told to."""

    def __init__(self, stops=10**9):
        self.asked, self.stops, self.seeds = 0, stops, []

    def __call__(self, prompts, _tokens, seed):
        if self.asked >= self.stops:
            raise ModelError("the power went")
        self.seeds.append(seed)
        self.asked += len(prompts)
        return [answer(prompt, hash_of(prompt)) for prompt in prompts]


def hash_of(prompt):
    return sum(prompt.encode()) % 1000


@pytest.fixture
def requests():
    emotions = ["calm", "sad", "on edge", "proud", "angry"]
    return writing.story_requests(emotions, TOPICS, per_pair=2, neutral=1)


def files(folder):
    return {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_what_is_written_is_a_corpus(requests, tmp_path):
    done = writing.write_corpus(Model(), requests, tmp_path)
    assert (len(done.stories), len(done.neutral)) == (20, 2)
    corpus = emolens.load_corpus(tmp_path)
    assert len(corpus.stories) == 20
    assert corpus.emotions == ("calm", "sad", "on edge", "proud", "angry")
    assert corpus.neutral[0].text.startswith("\n\nHuman: Convert")
    assert {text.group for text in corpus.stories} == set(TOPICS)
    assert repr(done) == "20 stories and 2 neutral dialogues kept, none left out"


def test_a_stopped_run_goes_on_and_ends_with_the_same_files(requests, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    writing.write_corpus(Model(), requests, whole)
    with pytest.raises(ModelError, match="power"):
        writing.write_corpus(Model(stops=writing.TOGETHER), requests, cut)
    assert not (cut / "stories.jsonl").exists()
    with (cut / writing.REPLIES).open("a") as file:
        file.write('{"request": "calm-00')  # killed in the middle of a line
    later = Model()
    writing.write_corpus(later, requests, cut)
    assert later.asked == len(requests) - writing.TOGETHER
    assert files(cut) == files(whole)
    again = Model(stops=0)
    writing.write_corpus(again, requests, cut)
    assert again.asked == 0


def test_no_two_calls_sample_alike(requests, tmp_path):
    model = Model()
    writing.write_corpus(model, requests, tmp_path, seed=5)
    assert len(model.seeds) == len(set(model.seeds)) == 2
    assert model.seeds[0] == 5


def test_other_requests_do_not_mix_with_those_in_the_folder(requests, tmp_path):
    writing.write_corpus(Model(), requests, tmp_path)
    with pytest.raises(ArtefactError, match="other requests"):
        writing.write_corpus(Model(), requests[1:], tmp_path)


def test_what_does_not_pass_is_left_out_and_told():
    request = writing.Request("A bus is late", 6, "afraid")
    good = story(1)
    reply = "\n".join(
        [
            f"[1] {good}",
            f"[2] {story(2, extra='She was terrified.')}",
            f"[3] {story(3, words=30)}",
            f"[4] {story(4, words=200)}",
            f"[5] {good} Once more.",
        ]
    )
    done = writing.filtered([request], [reply])
    assert [row["id"] for row in done.stories] == [f"{request.name}-1"]
    told = dict(zip(done.dropped.id.str[-1], done.dropped.reason, strict=True))
    assert told == {"2": "leak", "3": "length", "4": "length", "5": "copy", "6": "form"}
    assert "5 left out: 2 length" in repr(done)
    leak = done.dropped[done.dropped.reason == "leak"]
    assert leak.about.item() == "terrified"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("[1] Person: How far is it?\nAI: Nine miles.", ""),
        ("[1]\nSystem: Be brief.\nPerson: How far is it?\nAI: Nine miles.", ""),
        ("[1] Person: How far is it?", "form"),
        ("[1] How far is it? Nine miles.", "form"),
        ("[1] Person: How far is it?\nAI: I am happy to say nine miles.", "leak"),
        ("no number at all", "form"),
        ("", "form"),
    ],
)
def test_neutral_dialogues_have_two_sides_and_no_feeling(reply, reason):
    done = writing.filtered([writing.Request("A bus is late", 1, None, "facts")], [reply])
    assert list(done.dropped.reason) == ([reason] if reason else [])
    assert len(done.neutral) == (not reason)


def test_prompts_tell_the_model_what_the_filters_ask():
    prompt = writing.Request("A bus is late", 3, "on edge").prompt
    for part in ("3 short stories", "80 to 140 words", "A bus is late", '"on edge"', "[3]"):
        assert part in prompt


def test_a_chat_model_writes_without_its_prompt(organism):
    tokenizer = copy.deepcopy(organism.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} . {% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )
    model = replace(organism, tokenizer=tokenizer)
    write = writing.model_writer(model)
    first, second = write(["tell of mara", "tell of tom"], 6, 1)
    assert first
    assert "tell of" not in first + second
    assert write(["tell of mara", "tell of tom"], 6, 1) == [first, second]


@pytest.fixture
def endpoint():
    """A server on this machine that answers as OpenAI's do."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers["Authorization"], asked))
            status = 404 if asked["model"] == "absent" else 200
            content = answer(asked["messages"][0]["content"], len(seen))
            body = json.dumps(
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": asked["model"],
                    "choices": [
                        {
                            "index": 0,
                            "finish_reason": "stop",
                            "message": {"role": "assistant", "content": content},
                        }
                    ],
                }
            ).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    server.server_close()


def test_the_command_has_an_endpoint_write(endpoint, tmp_path, monkeypatch):
    address, seen = endpoint
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    topics = tmp_path / "topics.txt"
    topics.write_text("\n".join(TOPICS))
    words = [
        "stories",
        "generate",
        "--model",
        "some",
        "--address",
        address,
        "--emotions",
        "calm,sad",
    ]
    more = ["--topics", str(topics), "--neutral", "1", "--out", str(tmp_path / "out"), "--json"]
    told = json.loads(CliRunner().invoke(app, words + more, catch_exceptions=False).stdout)
    assert told["stories"] == 8
    assert told["neutral"] == 2
    path, key, asked = seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert asked["max_tokens"] == 2 * writing.TOKENS_EACH
    assert "secret" not in str(files(tmp_path / "out"))
    assert len(emolens.load_corpus(tmp_path / "out").stories) == 8


def test_an_endpoint_that_does_not_answer_is_one_line(endpoint, requests, tmp_path):
    address, _ = endpoint
    write = writing.endpoint_writer(address, "absent")
    with pytest.raises(ModelError, match=r"did not write.*'absent'.*go on"):
        writing.write_corpus(write, requests, tmp_path)
