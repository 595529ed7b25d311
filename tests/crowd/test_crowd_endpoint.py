"""Endpoints: a server of this machine that speaks the protocol well, slowly, wrongly, or not at all."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from crowd_runs import run_scripted

from hierrouter_jax.core.errors import ConfigError
from hierrouter_jax.crowd.crew import EndpointConfig
from hierrouter_jax.crowd.output_schemas import YES_NO, NumberSchema, TextSchema
from hierrouter_jax.crowd.subtasks import SubTask, values
from hierrouter_jax.crowd.workers import endpoint_worker
from hierrouter_jax.crowd.workers.endpoint_worker import EndpointWorker
from hierrouter_jax.crowd.workers.worker import Ask, Contributor

AT_ONCE = {"retry-after-ms": "1"}  # the client need not wait before it tries again


def completion(text, prompt_tokens=11, completion_tokens=7, **fields):
    """The body of an answer."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    data = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return json.dumps(data | {"choices": [choice]} | fields).encode()


class ChatServer:
    """Answers by `respond(request, number)`: a status, a body and headers, or None where it wrote for itself.

    `requests` lists the bodies received, `headers` theirs, `most_at_once` how many were in work together.
    """

    def __init__(self, respond):
        self.respond, self.requests, self.headers, self.paths = respond, [], [], []
        self.is_closing = threading.Event()
        self.num_now = self.most_at_once = 0
        self._lock = threading.Lock()
        chat = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with chat._lock:
                    chat.requests.append(body)
                    chat.headers.append(self.headers)
                    chat.paths.append(self.path)
                    number = len(chat.requests)
                    chat.num_now += 1
                    chat.most_at_once = max(chat.most_at_once, chat.num_now)
                found = chat.respond(body, number) if number else None
                with chat._lock:
                    chat.num_now -= 1
                if callable(found):
                    found(self)
                    self.close_connection = True
                    return
                status, content, *headers = found
                self.send_response(status)
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

            def handle(self):
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):  # the client gave up
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.is_closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def said_back(body, number):
    """The last word of the prompt, as an answer."""
    return 200, completion(body["messages"][0]["content"].split()[-1])


def ask(text="7", *, slot=0, seed=13, persona="", refusals=(), schema=None):
    subtask = SubTask(name="say", role="say", instructions=f"Say {text}.", schema=schema or TextSchema(), redundancy=99)
    contributor = Contributor(name=f"m#{slot}", kin="m", persona=persona)
    return Ask(subtask=subtask, slot=slot, contributor=contributor, seed=seed, refusals=tuple(refusals))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def opened():
    """Opens workers on a server, and closes them."""
    workers = []

    def open_worker(server, *, max_retries=0, **fields):
        config = EndpointConfig(**({"base_url": server.url, "model": "m"} | fields))
        workers.append(EndpointWorker(config, max_retries=max_retries))
        return workers[-1]

    yield open_worker
    for worker in workers:
        worker.close()


def answer(worker, asks):
    """The replies, in the order of the asks; each must come once, and in this thread."""
    replies, thread = {}, threading.get_ident()

    def on_reply(index, reply):
        assert threading.get_ident() == thread
        assert index not in replies
        replies[index] = reply

    worker.answer(asks, on_reply)
    return [replies[index] for index in range(len(asks))]


def test_the_request_says_the_sub_task_in_words_and_the_reply_its_cost(opened, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "  secret-17\n")
    with ChatServer(lambda body, number: (200, completion(" yes ", 1009, 31))) as server:
        worker = opened(server, temperature=0.3, cost_per_1k_tokens=0.25, api_key_env="SOME_KEY")
        one = ask("it", seed=12345, persona="You are terse.", refusals=("no", "too long"), schema=YES_NO)
        (reply,) = answer(worker, [one])
    (request,) = server.requests
    assert request == {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": "You are terse.\n\nSay it.\n\nAn earlier answer was refused: too long.\n\n"
                "Answer with one of: yes, no.",
            }
        ],
        "temperature": 0.3,
        "seed": 12345,
    }
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == "Bearer secret-17"
    assert (reply.text, reply.failure) == (" yes ", None)
    assert reply.cost == pytest.approx((1009 + 31) / 1000 * 0.25)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": True, "completion_tokens": 3}, {"prompt_tokens": -5}])
def test_tokens_are_estimated_where_the_server_does_not_count_them(opened, usage):
    with ChatServer(lambda body, number: (200, completion("four", usage=usage))) as server:
        (reply,) = answer(opened(server, cost_per_1k_tokens=1000.0), [ask()])
    num_chars = len(server.requests[0]["messages"][0]["content"]) + 4
    assert reply.cost == pytest.approx(-(-num_chars // 3))


@pytest.mark.parametrize(("max_parallel", "most"), [(1, 1), (5, 5), (99, 11)])
def test_asks_run_side_by_side_up_to_a_limit(opened, max_parallel, most):
    gate, is_full = threading.Event(), threading.Event()

    def respond(body, number):
        if number >= most:
            is_full.set()
        assert is_full.wait(30)  # nobody is answered before as many as may are there
        gate.wait(0.02)
        return said_back(body, number)

    with ChatServer(respond) as server:
        replies = answer(opened(server, max_parallel=max_parallel), [ask(str(n), slot=n, seed=n) for n in range(11)])
    assert [reply.text for reply in replies] == ["remarks."] * 11
    assert server.most_at_once == most
    assert sorted(request["seed"] for request in server.requests) == list(range(11))


def test_replies_are_those_of_their_asks_whatever_finishes_first(opened):
    def respond(body, number):
        seed = body["seed"]
        time.sleep(0.05 * (3 - seed) if seed < 3 else 0)
        return 200, completion(f"answer {seed}")

    with ChatServer(respond) as server:
        replies = answer(opened(server), [ask(slot=n, seed=n) for n in range(7)])
    assert [reply.text for reply in replies] == [f"answer {n}" for n in range(7)]


def test_a_server_error_that_passes_is_tried_again_by_the_client(opened):
    def respond(body, number):
        return (500, b'{"error": {"message": "hot"}}', AT_ONCE) if number < 3 else said_back(body, number)

    with ChatServer(respond) as server:
        (reply,) = answer(opened(server, max_retries=2), [ask()])
        assert (reply.text, len(server.requests)) == ("remarks.", 3)
    with ChatServer(lambda body, number: (503, b'{"error": {"message": "\\u001b[31mbusy"}}', AT_ONCE)) as server:
        (reply,) = answer(opened(server, max_retries=1), [ask()])
        assert len(server.requests) == 2
    assert "the endpoint gave no answer" in reply.failure
    assert "busy" in reply.failure
    assert reply.failure.isprintable()
    assert reply.cost == 0.0


@pytest.mark.parametrize("status", [400, 422, 429])
def test_other_errors_are_failures_of_the_one_ask(opened, status):
    def respond(body, number):
        bad = body["seed"] == 1
        return (status, b'{"error": {"message": "not so"}}', AT_ONCE) if bad else said_back(body, number)

    with ChatServer(respond) as server:
        first, second, third = answer(opened(server), [ask(slot=n, seed=n) for n in range(3)])
    assert (first.failure, second.text, third.failure) == (None, "", None)
    assert "not so" in second.failure


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"refused the key in OPENAI_API_KEY \(401: .*wrong key.*set the variable to a key that may use m"),
        (403, r"refused the key in OPENAI_API_KEY \(403"),
        (404, r"has no model 'm' \(404: .*wrong key.*correct model, or base_url"),
    ],
)
def test_what_will_not_get_better_ends_the_run_at_once(opened, status, message):
    """What was answered before is handed over; no more is asked."""

    def respond(body, number):
        if body["seed"] == 2:
            return status, b'{"error": {"message": "wrong key \\u001b[31m"}}'
        return said_back(body, number)

    replies = []
    with ChatServer(respond) as server:
        worker = opened(server, max_parallel=1, max_retries=2)
        with pytest.raises(ConfigError, match=message) as caught:
            worker.answer([ask(slot=n, seed=n) for n in range(7)], lambda index, reply: replies.append(index))
        assert len(server.requests) == 3
    assert replies == [0, 1]
    assert str(caught.value).isprintable()


def test_a_server_that_is_slow_or_never_answers_runs_out_of_time(opened):
    def respond(body, number):
        server.is_closing.wait(0.6 if body["seed"] == 0 else 20)
        return said_back(body, number)

    with ChatServer(respond) as server:
        begun_s = time.monotonic()
        replies = answer(opened(server, timeout_s=0.2), [ask(slot=n, seed=n) for n in range(3)])
        assert 0.2 <= time.monotonic() - begun_s < 10
    assert [reply.failure for reply in replies] == ["the endpoint gave no answer within 0.2 s"] * 3


def test_a_server_that_sends_spaces_for_ever_runs_out_of_time(opened):
    """No read ever takes long, so the client's own time-out does not fire."""

    def spaces(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
        for _ in range(500):  # long enough for ever
            if not server.is_closing.wait(0.02):
                handler.wfile.write(b" ")

    def late(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n  ")
        time.sleep(0.1)
        handler.wfile.write(b"\n\n" + completion("late"))

    with ChatServer(lambda body, number: spaces if body["seed"] == 0 else late) as server:
        begun_s = time.monotonic()
        first, second = answer(opened(server, timeout_s=0.4), [ask(slot=n, seed=n) for n in range(2)])
        assert time.monotonic() - begun_s < 10
    assert "not whole after 0.4 s" in first.failure
    assert second.text == "late"


def test_a_server_that_is_not_there_or_hangs_up(opened):
    def half(status):
        return lambda handler: handler.wfile.write(b"HTTP/1.1 %d So\r\nContent-Length: 1000\r\n\r\n{" % status)

    with ChatServer(lambda body, number: half((200, 500)[body["seed"]])) as server:
        worker = opened(server)
        for reply in answer(worker, [ask(slot=n, seed=n) for n in range(2)]):
            assert "the endpoint gave no answer: 'it broke off" in reply.failure
    (reply,) = answer(worker, [ask()])
    assert "the endpoint gave no answer: 'Connection error.'" in reply.failure


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"<html>Welcome</html>", "no chat completion, but '<html>Welcome"),
        (b"\xff\xfe\x00", "no chat completion"),
        (b"", "no chat completion"),
        (b"null", "no chat completion, but 'null'"),
        (b"[" * 100_000, "no chat completion"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [{"message": null}]}', "no chat completion"),
        (b'{"choices": {"0": 1}}', "no chat completion"),
        (completion(None), "its message holds no text"),
        (completion(["a", "b"]), "its message holds no text"),
    ],
)
def test_a_body_that_is_no_answer_is_a_failure(opened, body, why):
    with ChatServer(lambda *_: (200, body)) as server:
        (reply,) = answer(opened(server), [ask()])
    assert why in reply.failure
    assert reply.failure.isprintable()


def test_halves_of_characters_in_an_answer_can_be_stored(opened, tmp_path):
    def pipeline():
        return values((yield SubTask(name="say", role="say", instructions="Say.", schema=TextSchema())))

    with ChatServer(lambda *_: (200, completion("a \ud83d b"))) as server:
        assert run_scripted(pipeline(), opened(server), tmp_path).result == ["a ? b"]


def numbers(redundancy):
    found = yield SubTask(
        name="count", role="count", instructions="Count.", schema=NumberSchema(), redundancy=redundancy
    )
    return [(one.contributor, one.kin, one.value) for one in found]


def test_a_run_asks_again_what_failed_and_stores_what_came(opened, tmp_path):
    def respond(body, number):
        assert "refused" not in body["messages"][0]["content"]  # nothing was said that could be
        if number > 4:
            return 200, completion("13")
        return (500, b"{}", AT_ONCE) if number % 2 else (200, completion(f"{number}"))

    with ChatServer(respond) as server:
        worker = opened(server, model="lab/m", max_parallel=1, personas=("You add.", "You count."))
        outcome = run_scripted(numbers(4), worker, tmp_path)
        assert outcome.status == "done"
        names = [f"lab/m#{sample}" for sample in range(4)]
        assert outcome.result == [(name, "lab/m", value) for name, value in zip(names, (13, 2, 13, 4), strict=True)]
        assert outcome.spent.num_calls == len(server.requests) == 6
        assert len({request["seed"] for request in server.requests}) == 6
        assert [request["messages"][0]["content"].split("\n")[0] for request in server.requests] == [
            "You add.",
            "You count.",
        ] * 2 + ["You add."] * 2
        assert run_scripted(numbers(4), worker, tmp_path).result == outcome.result
        assert len(server.requests) == 6


def test_a_run_whose_endpoint_never_answers_fails_and_says_why(opened, tmp_path):
    def pipeline():
        return values((yield SubTask(name="say", role="say", instructions="Say.", schema=TextSchema())))

    with ChatServer(lambda *_: (500, b"{}", AT_ONCE)) as server:
        outcome = run_scripted(pipeline(), opened(server), tmp_path)
        assert len(server.requests) == 3
    assert outcome.status == "failed"
    assert "needs 1 usable answers, but got 0 of 1" in outcome.reason
    assert "the endpoint gave no answer" in outcome.reason


def test_what_came_beside_the_last_error_is_handed_over(opened):
    """One thread is refused while another waits for an answer, which is there when the error is taken up."""
    is_asked, is_refused, is_answered = threading.Event(), threading.Event(), threading.Event()

    def respond(body, number):
        if body["seed"] == 1:
            assert is_asked.wait(30)
            is_refused.set()
            return 401, b"{}"
        if body["seed"] == 2:
            is_asked.set()
            assert is_refused.wait(30)
            time.sleep(0.3)
            is_answered.set()
        return said_back(body, number)

    def take(index, reply):
        taken.append(index)
        assert is_answered.wait(30)
        time.sleep(0.2)

    taken = []
    with ChatServer(respond) as server:
        worker = opened(server, max_parallel=2)
        with pytest.raises(ConfigError, match="401"):
            worker.answer([ask(slot=n, seed=n) for n in range(9)], take)
        assert len(server.requests) == 3
    assert taken == [0, 2]


def test_an_error_of_whoever_takes_the_replies_stops_the_asking(opened):
    def full(index, reply):
        raise OSError("disk full")

    def respond(body, number):
        time.sleep(0.01)
        return said_back(body, number)

    with ChatServer(respond) as server:
        worker = opened(server, max_parallel=1)
        with pytest.raises(OSError, match="disk full"):
            worker.answer([ask(slot=n, seed=n) for n in range(97)], full)
        num_asked = len(server.requests)
        time.sleep(0.3)
        assert len(server.requests) <= num_asked + 1  # the one in flight


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:1", "127.9.9.9", "[::1]:1", "models.localhost"])
def test_servers_of_this_machine_need_no_key(monkeypatch, host):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    worker = EndpointWorker(EndpointConfig(base_url=f"http://{host}/v1", model="m"))
    assert worker._client.api_key == "none"
    worker.close()


@pytest.mark.parametrize("key", [None, "", "  ", "caf\u00e9", "two\nlines"])
def test_other_servers_need_a_key_that_can_be_sent(monkeypatch, key):
    monkeypatch.delenv("THE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("THE_KEY", key)
    config = EndpointConfig(base_url="https://models.example/v1", model="m", api_key_env="THE_KEY")
    with pytest.raises(ConfigError, match="THE_KEY") as caught:
        EndpointWorker(config)
    assert "caf" not in str(caught.value)
    monkeypatch.setenv("THE_KEY", "any")
    EndpointWorker(config).close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature of an endpoint must be finite and >= 0, but is -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"cost_per_1k_tokens": float("inf")}, "cost_per_1k_tokens"),
        ({"timeout_s": 0.0}, "timeout_s of an endpoint must be finite and > 0, but is 0.0"),
        ({"max_parallel": 0}, "max_parallel of an endpoint must be >= 1, but is 0"),
        ({"model": ""}, "name of a model"),
        *(({"base_url": url}, "base_url of an endpoint") for url in ("", "localhost:1/v1", "ftp://a/", "http:///v1")),
        *(({"base_url": url}, "base_url of an endpoint") for url in ("http://a:b/", "http://[::1/v1")),
    ],
)
def test_numbers_and_addresses_out_of_range_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        EndpointWorker(EndpointConfig(**({"base_url": "http://localhost:1", "model": "m"} | fields)))


def test_without_the_client_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(endpoint_worker.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'hierrouter_jax\[endpoint\]'"):
        EndpointWorker(EndpointConfig(base_url="http://localhost:1", model="m"))
