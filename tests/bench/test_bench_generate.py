"""Generation beside transformers and a scripted llama.cpp: same ids in, same tokens out, budgets and stops kept."""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_pools import write_hub_model
from transformers import LlamaConfig, LlamaForCausalLM

from hierrouter_jax.bench import generate, llama_cpp_peer, measure_generation
from hierrouter_jax.bench.generate import GenerateBench, bench_generate, generate_ours
from hierrouter_jax.bench.llama_cpp_peer import LlamaCppPeer
from hierrouter_jax.bench.transformers_peer import load_transformers
from hierrouter_jax.bench.workloads import Workload, fixed_workload, mix_workload
from hierrouter_jax.core.errors import ConfigError, DataError
from hierrouter_jax.llm.pool import load_pool
from hierrouter_jax.weights.sources import ResolvedFiles

VOCAB = 263


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A pool of a llama that torch made, and of a tiny model with a tokenizer; rows of GSM8K's form."""
    place = tmp_path_factory.mktemp("generate")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=34, intermediate_size=41, num_hidden_layers=3, num_attention_heads=17,
        num_key_value_heads=17, max_position_embeddings=199, tie_word_embeddings=False, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place / "llama")
    write_hub_model(place / "hub")
    entries = [f'[[model]]\nname = "{name}"\nsource = "{name}"\nmax_new_tokens = 23\n' for name in ("llama", "hub")]
    (place / "pool.toml").write_text("\n".join(entries))
    rows = [{"id": f"g{n}", "task": "gsm8k", "question": f"{n} and {n * n}?", "answer": str(n)} for n in range(31)]
    (place / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture(scope="module")
def pool(place):
    return load_pool(place / "pool.toml", is_quiet=True)


@pytest.fixture(autouse=True)
def no_rows(monkeypatch):
    monkeypatch.delenv("HIERROUTER_BENCHMARKS", raising=False)


@pytest.fixture
def quick_rates(monkeypatch):
    """Products and copies of a made-up machine: every product a millisecond."""
    monkeypatch.setattr(measure_generation, "product_seconds", lambda shape, rows, dtype: 1e-3)
    monkeypatch.setattr(measure_generation, "copy_rate", lambda dtype: 1e9)


def of_peer(peer, work):
    return peer.generate(
        work.prompts,
        max_new_tokens=work.max_new_tokens,
        stop_token_ids=work.stop_token_ids,
        is_complete=work.is_complete,
    )


def test_the_peers_tokens_are_ours_whatever_the_lengths_budgets_and_ends(pool):
    rng = np.random.default_rng(5)
    prompts = tuple(tuple(map(int, rng.integers(0, VOCAB, length))) for length in (2, 19, 7, 11, 5))
    budgets = (13, 3, 17, 1, 11)
    free = Workload(name="free", prompts=prompts, max_new_tokens=budgets)
    decoder, peer = pool.decoder("llama"), load_transformers(pool.files("llama"))
    ours = generate_ours(decoder, free)
    assert of_peer(peer, free).token_ids == ours
    assert [len(row) for row in ours] == list(budgets)
    # now stop the first row at a token of its own, and complete the third at another
    ended = Workload(
        name="ended",
        prompts=prompts,
        max_new_tokens=budgets,
        stop_token_ids=(ours[0][4],),
        is_complete=lambda row, ids: row == 2 and len(ids) == 6,
    )
    ours_ended = generate_ours(decoder, ended)
    answers = of_peer(peer, ended)
    assert answers.token_ids == ours_ended
    assert len(ours_ended[0]) <= 5
    assert len(ours_ended[2]) <= 6
    counts = answers.counts
    assert counts.computed_prompt == 5 * 19
    assert counts.computed_new == 5 * (max(map(len, ours_ended)) - 1)
    assert counts.billed_prompt == sum(map(len, prompts))
    assert counts.billed_new == sum(map(len, ours_ended))


def test_the_peers_scores_are_those_of_each_continuation_alone(pool):
    peer = load_transformers(pool.files("llama"))
    prompts, continuations = [[3, 5, 7, 11], [13], [17, 19]], [[2], [23, 29, 31], [37, 41]]
    scores, counts = peer.score(prompts, continuations)
    for prompt, continuation, score in zip(prompts, continuations, scores, strict=True):
        with torch.no_grad():
            logits = peer.model(torch.tensor([[*prompt, *continuation]])).logits[0]
        logprobs = torch.log_softmax(logits, dim=-1)
        expected = sum(float(logprobs[len(prompt) + place - 1, token]) for place, token in enumerate(continuation))
        assert score == pytest.approx(expected, abs=1e-4)
    assert counts.computed_prompt == 3 * 5


def test_bench_generate_writes_whole_prefill_and_decode_beside_the_peer(place, quick_rates):
    options = GenerateBench(
        pool=place / "pool.toml", model="llama", batch=(1, 3), runs=2, num_prompt_tokens=11, num_new_tokens=7
    )
    report = bench_generate(options)
    stated = json.loads(json.dumps(report.as_json()))
    assert [(row["what"], row["batch"]) for row in stated["rows"]] == [
        (f"11 + 7 tokens, {part}", batch) for batch in (1, 3) for part in ("total", "prefill", "decode")
    ]
    for row in stated["rows"]:
        assert row["peer_name"] == "transformers (float32)"
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
        assert len(row["ours_runs"]) == len(row["peer_runs"]) == 2
        assert row["equal_rows"] == row["batch"]
        assert row["new_tokens"] == row["peer_new_tokens"] == [7] * row["batch"]
        assert row["floor_share"] == pytest.approx(row["floor_s"] / row["ours"])
    total, _, decode = stated["rows"][:3]
    assert decode["floor_s"] == pytest.approx(6 * 5e-3, rel=0.01)  # 6 steps of 5 products; the cache is small
    assert total["floor_s"] == pytest.approx(decode["floor_s"] + stated["rows"][1]["floor_s"])
    assert decode["bandwidth_share"] > 0
    assert stated["dtype"] == "float32"
    assert "No GSM8K mix" in stated["notes"][0]


def test_the_mix_is_of_real_questions_with_their_own_ends(place, pool, quick_rates):
    options = GenerateBench(
        pool=place / "pool.toml", model="hub", batch=(2,), runs=1, num_prompt_tokens=5, num_new_tokens=2, rows=place
    )
    rows = bench_generate(options).rows
    mixed = next(row for row in rows if row.what == "GSM8K questions, total")
    assert mixed.extra["equal_rows"] == 2
    work = mix_workload(pool, "hub", place, 2)
    assert [list(map(len, generate_ours(pool.decoder("hub"), work)))] == [mixed.extra["new_tokens"]]
    tokenizer = pool.tokenizer("hub")
    assert work.stop_token_ids == tokenizer.stop_token_ids
    assert all(budget <= 23 for budget in work.max_new_tokens)
    assert "?" in tokenizer.decode(work.prompts[0])
    with pytest.raises(DataError, match="there is no such file"):
        mix_workload(pool, "hub", place / "hub", 2)


def test_fixed_prompts_are_the_same_at_every_call():
    first, again = (fixed_workload(101, 3, num_prompt_tokens=7, num_new_tokens=5) for _ in range(2))
    assert first == again
    assert np.array(first.prompts).shape == (3, 7)
    assert first.first_tokens().max_new_tokens == (1, 1, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": ()}, "batch must be sizes"),
        ({"batch": (0,)}, "batch must be sizes"),
        ({"runs": 0}, "runs must be >= 1"),
        ({"num_new_tokens": 1}, "num_new_tokens must be >= 2"),
    ],
)
def test_options_that_measure_nothing(changes, message):
    with pytest.raises(ConfigError, match=message):
        GenerateBench(**changes)


def test_a_model_that_is_not_in_the_pool(place):
    with pytest.raises(ConfigError, match=r"one of the pool \(llama, hub\)"):
        bench_generate(GenerateBench(pool=place / "pool.toml", model="other", against=()))


def test_missing_packages_are_told_before_anything_is_loaded(place, monkeypatch):
    monkeypatch.setattr(generate, "load_pool", None)
    monkeypatch.setattr(generate, "require_extras", lambda *names: (_ for _ in ()).throw(ConfigError(str(names))))
    for peer, names in (("transformers", "torch"), ("llama_cpp", "llama_cpp")):
        with pytest.raises(ConfigError, match=names):
            bench_generate(GenerateBench(pool=place / "pool.toml", against=(peer,)))


class ScriptedLlama:
    """Stands in for llama_cpp: the next token after token t at position p is (3 t + p) % 41; sequences are checked."""

    def __init__(self):
        self.held = {}  # sequence -> tokens in the cache
        self.calls = []
        nothing = SimpleNamespace
        self.llama_log_callback = lambda function: function
        self.llama_log_set = self.llama_batch_free = lambda *given: None
        self.llama_backend_init = lambda: None
        self.llama_model_default_params = self.llama_context_default_params = nothing
        self.llama_model_load_from_file = lambda path, params: path
        self.llama_model_get_vocab = self.llama_get_memory = lambda given: given
        self.llama_vocab_n_tokens = lambda vocab: 41
        self.llama_init_from_model = lambda model, params: params

    def llama_memory_clear(self, memory, data):
        self.held = {}

    def llama_batch_init(self, size, embd, num_seq):
        return SimpleNamespace(
            token=[None] * size, pos=[None] * size, n_seq_id=[None] * size, seq_id=[[None] for _ in range(size)],
            logits=[None] * size, n_tokens=0,
        )  # fmt: skip

    def llama_decode(self, context, batch):
        assert batch.n_tokens <= context.n_batch
        self.calls.append(batch.n_tokens)
        for token, position, (row,) in zip(batch.token, batch.pos, batch.seq_id, strict=True):
            held = self.held.setdefault(row, [])
            assert position == len(held)
            held.append(token)
        self.batch = batch
        return 0

    def llama_get_logits_ith(self, context, index):
        assert self.batch.logits[index]
        logits = np.zeros(41, np.float32)
        logits[(3 * self.batch.token[index] + self.batch.pos[index]) % 41] = 1
        return logits.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def files_of(path, *, magic):
    path.write_bytes(magic)
    return ResolvedFiles(source="s", folder=path.parent, weights=(path,), sha256="0" * 64)


def test_llama_cpp_decodes_rows_together_and_lets_those_that_end_go(monkeypatch, tmp_path):
    library = ScriptedLlama()
    monkeypatch.setattr(llama_cpp_peer, "import_extra", lambda name: library)
    peer = LlamaCppPeer(files_of(tmp_path / "model.gguf", magic=b"GGUF"))
    prompts, budgets = ((2, 3), (5, 7, 11), (13,)), (5, 2, 7)

    def alone(prompt, budget, stop):
        ids, token = [], prompt[-1]
        while len(ids) < budget and (not ids or ids[-1] != stop):
            token = (3 * token + len(prompt) + len(ids) - 1) % 41
            ids.append(token)
        return ids

    stop = alone(prompts[2], 7, None)[3]
    work = Workload(name="w", prompts=prompts, max_new_tokens=budgets, stop_token_ids=(stop,))
    expected = [alone(prompt, budget, stop) for prompt, budget in zip(prompts, budgets, strict=True)]
    assert peer.generate(work) == expected
    assert library.calls[0] == 6
    assert library.calls[1:] == [sum(len(ids) > step for ids in expected) for step in range(1, max(map(len, expected)))]
    assert peer.generate(work) == expected  # again, in the same context
    with pytest.raises(ConfigError, match="GGUF files only"):
        LlamaCppPeer(files_of(tmp_path / "model.safetensors", magic=b"{}"))
