"""The plan of an image inside vLLM: what is read and refused, how many tokens stay, and what is in the cache key."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import greedyprune as gp
from greedyprune.engines.vllm.plan import Plan, able, check_grid, plans_of, read_policy, texts_of

SOFT = gp.SoftGreedyPrune(at=gp.Input())
END = [[2]]


def policy(method: object = "divprune", keep: object = 64) -> gp.Policy:
    found = read_policy({"method": method, "keep": keep}, None, "compact")
    assert found is not None
    return found


def test_a_request_stands_in_front_of_the_server() -> None:
    server = {"method": "divprune", "keep": "25%"}
    assert read_policy(server, None, "compact") == gp.Policy("divprune", "25%", "input", "compact")
    assert read_policy(server, {"keep": 64}, "compact") == gp.Policy("divprune", 64, "input", "compact")
    assert read_policy(server, {"detail": "low"}, "compact") == gp.Policy("divprune", 64, "input", "compact")
    asked = {"method": {"type": "facility"}, "keep": {"type": "ratio", "share": 0.5}}
    assert read_policy(server, asked, "original") == gp.Policy("facility", "50%", "input", "original")
    assert read_policy(server, {"at": {"type": "input"}, "keep": None}, "compact") == read_policy(
        server, None, "compact"
    )
    assert read_policy(None, {"keep": [64, "1/4"]}, "compact").keep == (64, gp.Ratio(0.25))  # type: ignore[union-attr]
    assert read_policy(None, {"keep": 64}, "compact").method == SOFT  # type: ignore[union-attr]


def test_nothing_asked_for_and_everything_asked_for_keep_every_token() -> None:
    for asked in (None, {}, {"keep": "100%"}, {"keep": {"type": "ratio", "share": 1}}, {"detail": "high"}):
        server = None if not asked else {"method": "divprune", "keep": 8}
        assert read_policy(server, asked, "compact") is None
    (plan,) = plans_of(None, [()])
    assert plan.count(576) == 576
    assert plan.digest == ""


def test_a_whole_policy_is_read() -> None:
    whole = gp.Policy("divprune", 64, "input", "compact").to_dict()
    assert read_policy(json.loads(json.dumps(whole)), None, "compact") == gp.Policy("divprune", 64, "input", "compact")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kep": 64}, "did you mean 'keep'"),
        ({"keep": 0}, "leaves nothing"),
        ({"keep": "0%"}, "leaves nothing"),
        ({"keep": [64, 0]}, "leaves nothing"),
        ({"keep": "total:0"}, "leaves nothing"),
        ({"keep": -3}, "negative"),
        ({"keep": 0.25}, "ambiguous"),
        ({"keep": "a lot"}, "is no budget"),
        ({"keep": "64 per layer"}, "decoder layers"),
        ({"keep": "layer:8 50%"}, "decoder layers"),
        ({"keep": 64, "detail": "low"}, "write one of them"),
        ({"detail": "middle"}, "detail='middle'"),
        ({"method": "divprune"}, "keep is missing"),
        ({"keep": 64, "method": "divprun"}, "did you mean 'divprune'"),
        ({"keep": 64, "method": "fastv"}, "behind decoder layers"),
        ({"keep": 64, "method": "cls"}, "it reads the class token's attention"),
        ({"keep": 64, "method": "greedyprune"}, "knows nothing of the question"),
        ({"keep": 64, "method": {"type": "greedyprune", "text": "question_max", "fallback": "none"}}, "may keep fewer"),
        ({"keep": 64, "method": {"type": "greedyprune", "preprocess": "rmsnorm", "text": "question_max"}}, "norm"),
        ({"keep": 64, "method": "json.decoder:JSONDecoder"}, "would import a module"),
        ({"keep": 64, "at": "layer:2"}, "Leave out at"),
        ({"keep": 64, "positions": "original"}, "compact positions"),
        ({"type": "policy", "version": 2, "method": "divprune", "keep": 64}, "version 2"),
        (["keep", 64], "are no options"),
        ("25%", "are no options"),
    ],
)
def test_what_cannot_be_carried_out_is_a_value_error_with_the_remedy(asked: object, said: str) -> None:
    """vLLM answers a ValueError of the front end with HTTP 400; any other would be one of 500."""
    with pytest.raises(ValueError, match=said) as error:
        read_policy(None, asked, "compact")  # type: ignore[arg-type]
    assert str(error.value).startswith("greedyprune: ")


def test_a_servers_own_method_may_be_of_another_package() -> None:
    server = {"method": "greedyprune.methods.divprune:DivPrune", "keep": 64}
    assert read_policy(server, None, "compact") == policy()


def test_the_methods_that_run_are_those_that_look_at_rows_question_and_grid() -> None:
    assert able() == [
        "divprune", "gprune", "evs", "vidcom2", "dycoke", "cdpruner", "soft_greedyprune", "zspaprune", "otprune",
        "facility", "random", "grid", "pool",
    ]  # fmt: skip
    for word in ("greedyprune", "mmr", "saliency"):
        assert policy({"type": word, "text": "question_max"}).method.reads >= {"question"}


PLANS = st.builds(
    lambda method, keep, text: Plan(policy(method, keep), tuple(text)),
    st.sampled_from(["divprune", SOFT, "pool", {"type": "random", "seed": 3}]),
    st.sampled_from([1, 64, "25%", "8/frame"]),
    st.lists(st.integers(0, 10**6), max_size=8),
)


def test_whatever_can_change_a_selection_changes_the_key() -> None:
    plans = [
        Plan(policy(SOFT, 8), (7, 8)), Plan(policy(SOFT, 8), (7, 9)), Plan(policy(SOFT, 9), (7, 8)),
        Plan(policy({"type": "soft_greedyprune", "weight": 1.0}, 8), (7, 8)), Plan(policy("divprune", 8)),
        Plan(policy(SOFT, 8), (7, 8), measuring=True), Plan(),
    ]  # fmt: skip
    assert len({plan.digest for plan in plans}) == len(plans)


@given(PLANS, PLANS)
def test_bytes_and_key_are_equal_if_and_only_if_the_plans_are(one: Plan, other: Plan) -> None:
    assert Plan.from_bytes(one.to_bytes()) == one
    assert Plan.from_tensor(one.to_tensor()) == one
    assert (one.to_bytes() == other.to_bytes()) == (one == other) == (one.digest == other.digest)


def test_the_key_is_the_same_in_another_process_which_needs_no_vllm() -> None:
    plan = Plan(policy("soft_greedyprune", "25%"), (5, 6))
    code = (
        "import sys\n"
        "from greedyprune.engines.vllm.plan import Plan, read_policy\n"
        "print(Plan(read_policy({'keep': '1/4'}, None, 'compact'), (5, 6)).digest, 'vllm' in sys.modules)"
    )
    environment = {"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.split() == [plan.digest, "False"]


@given(PLANS, st.integers(1, 40), st.integers(1, 40))
def test_as_many_tokens_stay_as_a_selection_will_keep(plan: Plan, h: int, w: int) -> None:
    n, grid = h * w, (1, h, w)
    assert plan.policy is not None
    count = plan.count(n, grid)
    assert 1 <= count <= n
    features, text = torch.randn(n, 4), torch.randn(3, 4)
    assert gp.select(plan.policy.method, gp.Cues(features, text=text, grid=grid), plan.policy.keep).k == count


def test_an_image_that_measures_memory_keeps_everything() -> None:
    plan = Plan(policy(), measuring=True)
    assert plan.count(576) == 576
    assert Plan.from_bytes(plan.to_bytes()) == plan


def test_budgets_of_several_images() -> None:
    texts = [(1,), (2,)]
    assert plans_of(policy(), texts) == [Plan(policy(), (1,)), Plan(policy(), (2,))]
    one, two = plans_of(policy(keep=[64, "100%"]), texts)
    assert (one.policy, two.policy) == (policy(), None)
    one, two = plans_of(policy(keep="total:64"), texts, lambda: [576, 64])
    assert (one.policy, two.policy) == (policy(keep=57), policy(keep=7))
    with pytest.raises(ValueError, match="holds 2 budgets, and this prompt has 3 images"):
        plans_of(policy(keep=[64, 32]), [*texts, (3,)])
    with pytest.raises(ValueError, match="write a budget for each image"):
        plans_of(policy(keep="total:64"), texts)
    with pytest.raises(ValueError, match=r"^greedyprune: .*too little"):
        plans_of(policy(keep="total:1"), texts, lambda: [576, 64])


def test_a_method_that_needs_a_grid_is_refused_if_there_is_none() -> None:
    with pytest.raises(ValueError, match=r"^greedyprune: UniformGrid needs the grid"):
        check_grid(gp.UniformGrid(), None)
    check_grid(gp.UniformGrid(), (1, 3, 4))
    check_grid(gp.DivPrune(), None)


IDS = [9, 5, 5, 7, 8, 2, 9, 3, 4, 2, 9, 6]
"""Two images (token 5) and a question (7 8), the end of a turn (2), an answer, a later turn."""
IMAGES = [-1, 0, 1, -1, -1, -1, -1, -1, -1, -1, -1, -1]


def test_the_question_is_that_of_the_images_own_turn() -> None:
    assert texts_of(SOFT, IDS, IMAGES, END) == [(7, 8), (7, 8)]
    assert texts_of(SOFT, IDS[:6], IMAGES[:6], END) == [(7, 8), (7, 8)]  # later turns change nothing
    assert texts_of(SOFT, IDS[:6], IMAGES[:6], []) == [(7, 8, 2), (7, 8, 2)]
    assert texts_of(gp.DivPrune(), IDS, IMAGES, END) == [(), ()]
    assert texts_of(gp.ZSPAPrune(), IDS, IMAGES, END) == [tuple(id for id in IDS if id != 5)] * 2
    assert texts_of(SOFT, [9, 9], [-1, -1], END) == []


def test_a_method_that_reads_the_chat_gets_the_text_from_the_question_on() -> None:
    chat = gp.SoftGreedyPrune(text="chat_max")
    assert texts_of(chat, IDS, IMAGES, END) == [(7, 8, 2, 9, 3, 4, 2, 9, 6)] * 2
    assert texts_of(chat, [7, 8, 5], [-1, -1, 0], END) == [(7, 8)]


def test_a_question_in_front_of_the_image_and_none_at_all() -> None:
    assert texts_of(SOFT, [7, 8, 5], [-1, -1, 0], END) == [(7, 8)]
    with pytest.raises(ValueError, match="this prompt has no text"):
        texts_of(SOFT, [5], [0], END)
