"""The small pool's real models against transformers on the same GGUF files, in float32.

Ours generates greedily, all prompts in one ragged batch and past every end of text, so that each prompt gives exactly
as many tokens. Transformers then reads each prompt with our continuation in one forward pass. Up to the first token
that is not its likeliest one, its own greedy continuation is ours; there, and wherever a token differs from then on,
the two logits must be so close that rounding decides.
"""

import gc
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hierrouter_jax.core.text import GREEDY, Message
from hierrouter_jax.llm.generation import generate_tokens
from hierrouter_jax.llm.pool import load_pool

NUM_NEW_TOKENS = 64
LARGEST_GAP = 1e-2  # of logits, where the likeliest token differs
LARGEST_LOGPROB_ERROR = 5e-3
MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b")

_DIARY = (
    "On day {0} the harbour was {1}, the {2} boats came back before noon and the cook counted {3} baskets of fish.\n"
)
PROMPTS = (
    "What is the capital of Portugal? Answer in one sentence.",
    "Write a Python function that returns the second largest number of a list.",
    "A baker sells 17 loaves in the morning and three times as many in the afternoon. How many loaves in all?",
    "Name three animals that sleep through the winter.",
    "Translate to French: The library closes at six o'clock.",
    "Explain in two sentences why the sky looks blue at noon and red in the evening.",
    "def is_leap_year(year):\n    ",
    "Which of these is a metal?\n\n(A) helium\n(B) copper\n(C) sulfur\n(D) neon\n\nAnswer:",
    "The old lighthouse keeper opened the door and",
    "List the steps to change the tyre of a bicycle.",
    "If x + 7 = 3x - 5, what is x? Show your work.\n\n1. ",
    "Write a short poem about rain on a tin roof.",
    "What does the SQL statement SELECT COUNT(*) FROM orders WHERE total > 100; return?",
    "Who wrote the play about the prince of Denmark?",
    "Résumé: naïve façade, 東京 and Москва — what do these words have in common?",
    "Fix the bug:\n\nfor i in range(10)\n    print(i)\n",
    "A train leaves at 9:40 and arrives at 13:05. How long is the journey?",
    "Give me a recipe for a soup with lentils and carrots.",
    "True or false: sound travels faster in water than in air. Say why.",
    # Longer than the window of Gemma's local layers.
    "".join(
        _DIARY.format(day, ("calm", "grey", "loud", "cold")[day % 4], ("red", "blue", "old")[day % 3], day * 7 % 23)
        for day in range(1, 21)
    )
    + "How many baskets did the cook count on day 5? Then tell what the weather was like on most days.",
)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How one prompt's continuation compares; `gaps` are of logits, likeliest less ours, 0 where the tokens agree."""

    gaps: np.ndarray
    logprob_error: float

    @property
    def first(self) -> int:
        """How many tokens are those of transformers' own greedy continuation."""
        return int(np.flatnonzero(self.gaps)[0]) if self.gaps.any() else len(self.gaps)


def generate_ours(pool, name):
    """Return prompts as ids, and the greedy continuations with their log-probabilities. No token ends one."""
    tokenizer, is_chat = pool.tokenizer(name), pool.card(name).prompt_style == "chat"
    prompts = [
        tokenizer.apply_chat([Message(role="user", content=text)])
        if is_chat
        else tokenizer.encode(text, add_special_tokens=True)
        for text in PROMPTS
    ]
    generated = generate_tokens(
        pool.decoder(name),
        prompts,
        max_new_tokens=[NUM_NEW_TOKENS] * len(prompts),
        samplings=[GREEDY] * len(prompts),
    )
    return prompts, generated


def logits_of_transformers(model, prompt, new_ids):
    """Return the logits before each of `new_ids`."""
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *new_ids]])
        return model(ids, use_cache=False, logits_to_keep=len(new_ids) + 1).logits[0, :-1].numpy()


def compare(model, prompt, ours):
    new_ids = np.array(ours.token_ids)
    logits = logits_of_transformers(model, prompt, ours.token_ids)
    chosen = np.take_along_axis(logits, new_ids[:, None], axis=1)[:, 0]
    logprobs = chosen - np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    error = np.abs(logprobs - np.array(ours.logprobs)).max()
    return Agreement(gaps=logits.max(axis=1) - chosen, logprob_error=float(error))


def report_lines(name, agreements):
    """Say how much agrees, and for each prompt that differs, where first and by how much."""
    num_tokens = sum(len(one.gaps) for one in agreements)
    num_equal = sum(int((one.gaps == 0).sum()) for one in agreements)
    num_before = sum(one.first for one in agreements)
    yield (
        f"{name}: {num_equal}/{num_tokens} greedy tokens equal ({num_equal / num_tokens:.2%}), {num_before} of them "
        f"before their prompt's first difference; largest log-probability error "
        f"{max(one.logprob_error for one in agreements):.1e}"
    )
    for number, one in enumerate(agreements, start=1):
        if one.gaps.any():
            yield f"  prompt {number}: first difference at token {one.first + 1}, logit gap {one.gaps[one.first]:.1e}"


def test_the_report_tells_the_first_difference_of_each_prompt():
    gaps = np.zeros((3, 5))
    gaps[1, [2, 4]] = 3e-4, 7e-4
    agreements = [Agreement(gaps=row, logprob_error=error) for row, error in zip(gaps, (1e-5, 2e-4, 0), strict=True)]
    assert list(report_lines("tiny", agreements)) == [
        "tiny: 13/15 greedy tokens equal (86.67%), 12 of them before their prompt's first difference; largest "
        "log-probability error 2.0e-04",
        "  prompt 2: first difference at token 3, logit gap 3.0e-04",
    ]


@pytest.mark.real_weights
@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_transformers(name, capsys):
    pool = load_pool("experiments/pools/small.toml", is_quiet=True)
    prompts, generated = generate_ours(pool, name)
    assert max(map(len, prompts)) > 540  # beyond the window of Gemma's local layers
    gguf_path = pool.files(name).weights[0]
    del pool
    gc.collect()
    model = AutoModelForCausalLM.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32).eval()
    agreements = [compare(model, prompt, ours) for prompt, ours in zip(prompts, generated, strict=True)]
    with capsys.disabled():
        print("\n" + "\n".join(report_lines(name, agreements)))
    gaps = np.concatenate([one.gaps for one in agreements])
    assert len(gaps) == len(PROMPTS) * NUM_NEW_TOKENS == 1280
    assert (gaps == 0).sum() >= 0.995 * len(gaps)
    assert gaps.max() < LARGEST_GAP
    assert max(one.logprob_error for one in agreements) < LARGEST_LOGPROB_ERROR
