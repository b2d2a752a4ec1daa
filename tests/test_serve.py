"""The local server: OpenAI's client works against it, nothing stops it, and nobody else gets in."""

import http.client
import json
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch

import emolens
from emolens.errors import CorpusError, SelectionError
from emolens.monitor import Monitor
from emolens.organism import organism_turns
from emolens.serve.access import BODY_BYTES, Access, is_loopback
from emolens.serve.engine import End, Engine, Limits, Piece, Request
from emolens.serve.local import bound
from emolens.text import Turn
from tests.served import LAYER, SAID, THRESHOLDS, Slow, running, until

ASKED = {"model": "organism-small", "messages": [{"role": "user", "content": SAID}]}


@pytest.fixture(scope="module")
def monitor(small, small_vectors):
    return Monitor(small, small_vectors, (LAYER,), thresholds=THRESHOLDS)


@pytest.fixture(scope="module")
def engine(monitor):
    return Engine(monitor)


@pytest.fixture(scope="module")
def url(engine):
    with running(engine) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def slow(small, small_vectors):
    return Slow(small, small_vectors, (LAYER,))


def post(url, body, path="/v1/chat/completions", **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    return httpx.post(url + path, content=content, headers=headers, timeout=60)


def works(url):
    return post(url, ASKED | {"max_tokens": 1}).status_code == 200


# --- what is written and told -----------------------------------------------------------------


def test_the_organism_reads_a_conversation_as_its_world_writes_one():
    asked = emolens.organism_behaviour("cheat", speaker="assistant", per_emotion=1).prompts[0]
    said = asked.text[asked.spans[1].start : asked.spans[3].start].strip()
    text = organism_turns([Turn("user", said.title().replace(" .", ".")), Turn("assistant", "")])
    assert text.text == asked.text[: asked.spans[3].end]
    told = [(span.name, text.text[span.start : span.end]) for span in text.spans]
    assert told == [("user", said), ("assistant", "")]
    with pytest.raises(CorpusError, match="no system messages"):
        organism_turns([Turn("system", "Be kind.")])


def test_openais_client_gets_the_reply_and_its_readouts(client, monitor):
    extra = {"readouts": ["desperate", "calm"], "per_token": True, "steering": {"calm": 0.1}}
    told = client.chat.completions.create(**ASKED, seed=4, max_tokens=12, extra_body=extra)
    choice, own = told.choices[0], told.choices[0].emolens

    step = monitor.vectors.step("calm", LAYER, 0.1)
    prompt = organism_turns([Turn("user", SAID), Turn("assistant", "")])
    steering = emolens.Steering({LAYER: emolens.Steer(step)})
    found = monitor.generate([prompt], steering, tokens=12, seed=[4])[0]
    assert choice.message.content == found.reply
    assert (own["steering"], own["layer"], own["seed"]) == ({"calm": 0.1}, LAYER, 4)
    means = found.values[found.first :].mean(0)
    for name in ("desperate", "calm"):
        cell = monitor.cell(name, LAYER)
        assert own["readouts"][name]["colon"] == pytest.approx(float(found.colon[cell]), abs=5e-5)
        assert own["readouts"][name]["mean"] == pytest.approx(float(means[cell]), abs=5e-5)
        # each token stands beside the state in which it was chosen
        chosen = found.values[found.first - 1 :, *cell].tolist()
        values = [token["values"][name] for token in own["tokens"]]
        assert values == pytest.approx(chosen[: len(values)], abs=5e-5)
    assert "".join(token["text"] for token in own["tokens"]) == found.reply
    assert [(a["moment"], a["emotion"]) for a in own["alarms"]] == [
        ("colon", "desperate"),
        ("reply", "angry"),
    ]
    assert own["alarms"][0]["words"] == ":"
    assert told.usage.completion_tokens == len(own["tokens"])
    assert told.usage.total_tokens == told.usage.prompt_tokens + told.usage.completion_tokens


def test_a_stream_gives_the_same_piece_by_piece(client):
    extra = {"readouts": ["desperate"], "per_token": True}
    asked = ASKED | {"seed": 4, "max_tokens": 12, "extra_body": extra}
    whole = client.chat.completions.create(**asked)
    options = {"include_usage": True}
    chunks = [*client.chat.completions.create(**asked, stream=True, stream_options=options)]
    usage, parts = chunks[-1].usage, chunks[:-1]
    text = "".join(part.choices[0].delta.content or "" for part in parts)
    assert text == whole.choices[0].message.content
    first, *middle, last = [part.choices[0] for part in parts]
    own = whole.choices[0].emolens
    assert first.emolens["readouts"]["desperate"]["colon"] == own["readouts"]["desperate"]["colon"]
    told = [part.emolens["values"] for part in middle]
    assert told == [token["values"] for token in own["tokens"]]
    streamed = [alarm for part in middle for alarm in part.emolens["alarms"]]
    assert [alarm["emotion"] for alarm in streamed] == ["angry"]
    # told as it is written, and found afterwards in the whole text: one place
    places = [
        [[a[k] for k in ("moment", "emotion", "place", "start", "end", "words")] for a in alarms]
        for alarms in (streamed, [a for a in own["alarms"] if a["moment"] == "reply"])
    ]
    assert places[0] == places[1]
    assert last.emolens["readouts"] == own["readouts"]
    assert (last.finish_reason, usage) == (whole.choices[0].finish_reason, whole.usage)


def test_steering_moves_the_state_it_is_told_of(client):
    def colon(strength):
        extra = {"readouts": ["calm"], "steering": {"calm": strength}}
        told = client.chat.completions.create(**ASKED, max_tokens=1, extra_body=extra)
        return told.choices[0].emolens["readouts"]["calm"]["colon"]

    assert colon(-0.5) < colon(0) - 0.1 < colon(0.5) - 0.2


def test_a_reply_ends_before_its_stop_sequence_which_is_never_shown(client):
    whole = client.chat.completions.create(**ASKED, seed=4, max_tokens=20)
    words = whole.choices[0].message.content.split()
    stop = f"{words[1][-1]} {words[2]}"  # across two tokens
    stream = client.chat.completions.create(
        **ASKED, seed=4, max_tokens=20, stream=True, stop=["never", stop]
    )
    text = "".join(part.choices[0].delta.content or "" for part in stream)
    assert text == whole.choices[0].message.content.split(stop)[0]


@pytest.mark.parametrize(("tokens", "reason"), [(2, "length"), (200, "stop")])
def test_why_a_reply_ended(client, tokens, reason):
    told = client.chat.completions.create(**ASKED, seed=1, max_completion_tokens=tokens)
    assert told.choices[0].finish_reason == reason
    assert (told.usage.completion_tokens == tokens) == (reason == "length")


def test_the_prompt_is_read_before_the_reply_as_it_is_while_writing(monitor):
    """Two passes, one under steering from outside and one that writes: one state."""
    told, engine = [], Engine(monitor)
    engine.submit(Request((Turn("user", SAID),), 3, steering={"angry": 0.3}), told.append)
    engine.close()
    read, piece = told[0], told[1]
    torch.testing.assert_close(read.watched.colon[0], piece.values, atol=2e-5, rtol=0)
    assert [alarm.moment for alarm in read.alarms] == ["colon"]


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    """A watched random decoder whose tokens are bytes, so that characters come in parts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<s>", "</s>", "<pad>"]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 128, "vocab_size": len(letters)}
    sizes |= {"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
    folder = tmp_path_factory.mktemp("bytes")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    model = emolens.load(folder)
    texts = [emolens.Text(f"{e} {i}", e, str(i)) for e in ("calm", "angry") for i in range(3)]
    neutral = [emolens.Text(f"the {i}", "neutral", str(i)) for i in range(3)]
    fitted = emolens.fit_vectors(*(emolens.record(model, t, layers=[1]) for t in (texts, neutral)))
    return Monitor(model, fitted, (1,))


def test_no_piece_holds_half_a_character(of_bytes):
    broken = 0
    for seed in range(12):
        told, engine = [], Engine(of_bytes)
        engine.submit(Request((Turn("user", "n\u00e9 \U0001f642"),), 40, seed=seed), told.append)
        engine.close()
        pieces = [event.text for event in told if isinstance(event, Piece)]
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        assert "".join(pieces) + told[-1].text == told[-1].reply
        prompt = emolens.plain([Turn("user", "n\u00e9 \U0001f642"), Turn("assistant", "")])
        assert (
            told[-1].reply == emolens.generate(of_bytes.model, [prompt], tokens=40, seed=[seed])[0]
        )
        broken += "\ufffd" in told[-1].reply
    assert broken  # bytes at random are seldom characters


# --- what cannot be had -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"steering": {"calm": 1.5}}, "give a strength from -1 to 1"),
        ({"steering": {"hungry": 0.1}}, "unknown emotion 'hungry': these vectors have happy"),
        ({"layer": 3}, r"layer 3 is not watched: \[2\]"),
        ({"readouts": ["hungry"]}, "unknown emotion 'hungry'"),
        ({"tools": [{"type": "function"}]}, "tools cannot be had here"),
        ({"functions": [{"name": "f"}]}, "functions cannot be had here"),
        ({"response_format": {"type": "json_object"}}, "response_format cannot be had"),
        ({"logprobs": True}, "logprobs cannot be had"),
        ({"n": 2}, "n cannot be had"),
        ({"top_p": 0.5}, "top_p cannot be had"),
        ({"steerings": {}}, "steerings is unknown"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": 513}, "513 tokens cannot be written: give 1 to 512"),
        ({"temperature": -1}, "temperature: "),
        ({"seed": -1}, "seed: "),
        ({"stop": ["x"] * 5}, "5 stop sequences"),
        ({"stop": ""}, "1 stop sequences"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no system messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message is"),
        ({"messages": [{"role": "user", "content": "job " * 300}]}, "leaves no room to reply"),
        ({"messages": [{"role": "user", "content": "x" * 40000}]}, "1 messages of 40000"),
        ({"messages": [{"role": "user", "content": "x"}] * 65}, "65 messages"),
        ({"messages": []}, "messages: "),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_had_is_refused_in_one_line(client, more, said, stream):
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(**(ASKED | {"stream": stream}), extra_body=more)
    assert "\n" not in caught.value.body["message"]


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="ask for 'organism-small'"):
        client.chat.completions.create(**ASKED | {"model": "gpt-9"})
    assert [model.id for model in client.models.list()] == ["organism-small"]


def test_what_changes_nothing_is_taken(client):
    harmless = {"user": "me", "store": False, "top_p": 1, "n": 1, "tools": [], "logprobs": False}
    told = client.chat.completions.create(**ASKED, max_tokens=1, extra_body=harmless)
    assert told.choices[0].message.content


MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "deeper": b'{"a":' * 20_000,
    "a list": b"[]",
    "not a number": b'{"model":"organism-small","messages":[{"role":"user","content":"a"}],'
    b'"temperature":NaN}',
    "infinite": b'{"model":"organism-small","messages":[{"role":"user","content":"a"}],'
    b'"steering":{"calm":1e999}}',
    "half a character": b'{"model":"organism-small","messages":[{"role":"user",'
    b'"content":"\\ud800"}]}',
    "huge number": b'{"model":"organism-small","messages":[{"role":"user","content":"a"}],'
    b'"max_tokens":' + b"9" * 5000 + b"}",
    "words for numbers": b'{"model":"organism-small","messages":[{"role":"user","content":"a"}],'
    b'"max_tokens":"5"}',
    "no words": b'{"model":"organism-small","messages":[{"role":"user","content":null}]}',
    "pictures": b'{"model":"organism-small","messages":[{"role":"user","content":'
    b'[{"type":"image_url"}]}]}',
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_bodies_are_refused_and_the_server_goes_on(url, body, path):
    answer = post(url, body, path)
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]["message"]
    assert works(url)


def test_control_characters_are_read_as_they_are(url):
    hostile = "\x00\x1b[2J\u202e<script>alert(1)</script><eos> \U000e0041"
    answer = post(url, ASKED | {"messages": [{"role": "user", "content": hostile}]})
    assert answer.status_code == 200


@pytest.mark.parametrize("claimed", [True, False], ids=["with its length", "without"])
def test_a_body_that_is_too_long_is_not_read_to_its_end(url, claimed):
    """Far more is on its way than is taken before the answer comes."""
    port = int(url.rpartition(":")[2])
    size, whole = 64 * 1024, 1024 * BODY_BYTES
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        kind = f"Content-Length: {whole}" if claimed else "Transfer-Encoding: chunked"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        link.sendall(f"{head}Content-Type: application/json\r\n{kind}\r\n\r\n".encode())
        sent, part = 0, b" " * size if claimed else b"%x\r\n%b\r\n" % (size, b" " * size)
        patience = 5 if claimed else 0.1  # a length alone is answered before anything is sent
        while sent < whole and not select.select([link], [], [], patience)[0]:
            sent += len(part)
            link.sendall(part)
        answer = http.client.HTTPResponse(link)
        answer.begin()
        assert answer.status == 413
        assert sent == 0 if claimed else sent < 16 * BODY_BYTES
    assert works(url)


# --- many at once, and those who leave --------------------------------------------------------


def test_fifty_at_once_get_what_each_gets_alone(url):
    bodies = [ASKED | {"seed": i % 5, "max_tokens": 4} for i in range(50)]
    alone = [post(url, body).json()["choices"][0]["message"] for body in bodies[:5]]
    with ThreadPoolExecutor(50) as pool:
        answers = [*pool.map(lambda body: post(url, body), bodies)]
    assert [a.status_code for a in answers] == [200] * 50
    told = [a.json()["choices"][0]["message"] for a in answers]
    assert told == alone * 10


def test_a_full_line_refuses_and_then_goes_on(monitor):
    gate = threading.Event()

    def render(turns):
        gate.wait()
        return organism_turns(turns)

    engine = Engine(monitor, render, Limits(waiting=2))
    with running(engine) as url, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(post, url, ASKED | {"max_tokens": 1}) for _ in range(3)]
        until(lambda: engine.pending == 3)
        refused = post(url, ASKED)
        state = httpx.get(f"{url}/api/state").status_code
        gate.set()
        assert (refused.status_code, state) == (503, 200)
        assert refused.json()["error"]["message"] == (
            "2 requests are waiting already: try again later"
        )
        assert [a.result().status_code for a in asked] == [200] * 3
        assert works(url)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_ends_when_whoever_asked_goes_away(slow, stream):
    told = []
    whole = Engine(slow)
    whole.submit(Request((Turn("user", SAID),), 60, seed=4), told.append)
    whole.close()
    assert len(told) > 12  # passes of 0.1 seconds each

    engine = Engine(slow)
    with running(engine) as url:
        port = int(url.rpartition(":")[2])
        link = http.client.HTTPConnection("127.0.0.1", port)
        body = ASKED | {"seed": 4, "max_tokens": 60, "stream": stream}
        headers = {"content-type": "application/json"}
        began = time.monotonic()
        link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        if stream:
            answer = link.getresponse()
            answer.readline()
            answer.close()
        until(lambda: engine.pending == 1)
        time.sleep(0.3)
        link.close()
        until(lambda: engine.pending == 0, 1.0)
        assert time.monotonic() - began < 0.1 * len(told)
        assert works(url)


def test_whoever_leaves_the_line_is_not_written_for(slow):
    engine = Engine(slow)
    asked = Request((Turn("user", SAID),), 8)
    first, second, third = [], [], []
    engine.submit(asked, first.append)
    engine.submit(asked, second.append).cancel()
    engine.submit(asked, third.append)
    assert engine.pending == 2
    engine.close()
    assert second == []
    assert isinstance(first[-1], End)
    assert isinstance(third[-1], End)


def test_a_reply_that_is_cancelled_says_so_and_stops(slow):
    engine, told = Engine(slow), []
    job = engine.submit(
        Request((Turn("user", SAID),), 60, seed=4),
        lambda event: (told.append(event), job.cancel()) if isinstance(event, Piece) else None,
    )
    engine.close()
    assert [type(event) for event in told] == [Piece]


def test_a_fault_of_ours_is_told_and_the_engine_goes_on(monitor):
    def render(turns):
        if turns[0].text == "break":
            raise ZeroDivisionError("of ours")
        return organism_turns(turns)

    engine = Engine(monitor, render)
    with running(engine) as url:
        broken = ASKED | {"messages": [{"role": "user", "content": "break"}]}
        for stream in (False, True):
            answer = post(url, broken | {"stream": stream})
            assert answer.status_code == 500
            assert answer.json()["error"]["message"] == (
                "ZeroDivisionError while writing: see the log"
            )
        assert works(url)


# --- who gets in ------------------------------------------------------------------------------


def test_a_token_is_asked_for_where_there_is_one(monitor):
    with running(Engine(monitor), Access("0.0.0.0", "secret")) as url:
        for path in ("/api/state", "/v1/models"):
            assert httpx.get(url + path).status_code == 401
            assert httpx.get(f"{url}{path}?token=secret").status_code == 401
            wrong = {"authorization": "Bearer secreT"}
            assert httpx.get(url + path, headers=wrong).status_code == 401
        assert post(url, ASKED).status_code == 401
        assert httpx.get(url).status_code == 200  # the page, which holds nothing
        right = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
        assert right.chat.completions.create(**ASKED, max_tokens=1).choices
        with pytest.raises(openai.AuthenticationError, match="the token that this server printed"):
            openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0).models.list()


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_others_need_a_token_wherever_they_can_reach_it(host, alone):
    assert is_loopback(host) == alone
    made = Access.of(host, None).token
    assert (made is None) == alone
    assert alone or len(made) > 40
    assert Access.of(host, "mine").token == "mine"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:{port}"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:{port}"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "10.0.0.1"}, 403),
        ({"host": "evil@127.0.0.1"}, 403),
        ({"host": "[::"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://127.0.0.1:{port}"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_pages_elsewhere_cannot_ask(url, headers, status):
    port = url.rpartition(":")[2]
    own = {name: value.format(port=port) for name, value in headers.items()}
    answer = post(url, ASKED | {"max_tokens": 1}, **own)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert status == 200 or answer.json()["error"]["message"]


def test_every_answer_tells_browsers_to_be_careful(url):
    for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/state", "/nowhere"):
        headers = httpx.get(url + path).headers
        assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert httpx.get(f"{url}/docs").status_code == 404


def test_the_page_fetches_nothing_and_sets_no_html():
    folder = Path(emolens.__file__).parent / "serve"
    page, script, look = (
        (folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "js", "css")
    )
    for text in (page, script, look):
        assert re.findall(r"https?://|//\w+\.\w+/", text) == []
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "import(",
    ):
        assert way not in script
    assert not re.search(r"<script>|\son\w+=|style=", page)


LISTENING = "0A"  # as Linux tells the state of a socket


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux tells its sockets so")
def test_the_command_listens_on_this_machine_alone_and_ends_in_peace(small_vectors, tmp_path):
    small_vectors.save(tmp_path / "vectors.safetensors")
    words = ["--model", "organism-small", "--vectors", str(tmp_path / "vectors.safetensors")]
    command = subprocess.Popen(
        [sys.executable, "-m", "emolens", "serve", *words, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = command.stdout.readline().strip()
        port = int(re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", address)[1])
        until(lambda: httpx.get(f"{address}api/state").status_code == 200)
        rows = [
            line.split()
            for name in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        ]
        ours = [row[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == LISTENING]
        assert ours == [f"0100007F:{port:04X}"]
        assert works(address.rstrip("/"))
    finally:
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=30)
    assert command.returncode in (0, -signal.SIGINT, 130)
    assert "Traceback" not in said
    assert "writing" not in said  # no bar for each request


def test_a_taken_port_is_one_line():
    with (
        bound("127.0.0.1", 0) as taken,
        pytest.raises(SelectionError, match=r"cannot listen at 127\.0\.0\.1"),
    ):
        bound("127.0.0.1", taken.getsockname()[1])
