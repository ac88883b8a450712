"""Mistakes in the server: who shares a batch, who is told what, and what strangers may ask for."""

from __future__ import annotations

from mutations.mutation import Mutation

WAITING = "test_waiting.py::"
REFUSED = "test_refusals.py::"

SERVED = [
    Mutation(
        "a batch is pruned as its first request says",
        "server/sharing.py:policy_of",
        "for job in jobs:",
        "for job in [jobs[0]] * len(jobs):",
        f"{WAITING}test_jobs_share_a_batch_if_only_budgets_and_prompts_differ",
    ),
    Mutation(
        "the model's thread ends if all that waited have left",
        "server/waiting.py:Waiting.take",
        "if taken := self._first():",
        "if (taken := self._first()) is not None:",
        f"{WAITING}test_a_queue_of_jobs_that_all_left_waits_for_the_next",
    ),
    Mutation(
        "prompts of a batch are padded on the right",
        "server/sharing.py:joined",
        "(longest - value.shape[1], 0)",
        "(0, longest - value.shape[1])",
        f"{WAITING}test_joined_inputs_are_those_of_the_processor",
    ),
    Mutation(
        "the beginning of a stop text is told",
        "server/writing.py:Text.add",
        "ready = ready[: len(ready) - held]",
        "ready = ready[: len(ready)]",
        f"{WAITING}test_what_a_stream_tells_is_the_whole_text_up_to_the_first_stop",
    ),
    Mutation(
        "one public address of a name is enough",
        "server/fetching.py:public_address",
        "not all(is_public",
        "not any(is_public",
        f"{REFUSED}test_private_addresses_are_not_fetched",
    ),
    Mutation(
        "the connection goes to what the name resolves to now",
        "server/fetching.py:Connection.connect",
        "(self._checked, PORT)",
        "(self.host, PORT)",
        f"{REFUSED}test_a_fetch_connects_to_the_checked_address_within_its_limits",
    ),
    Mutation(
        "a request may name any class",
        "server/wishes.py:_policy",
        "for name in WISHES}, own=False)",
        "for name in WISHES})",
        f"{REFUSED}test_a_bad_request_is_refused_by_name",
    ),
    Mutation(
        "who leaves keeps a place in the queue",
        "server/app.py:_left",
        'job.events.put_nowait(Refused(499, "disconnected", "the client left."))',
        "pass",
        "test_leaving.py::test_who_leaves_while_waiting_or_running_is_not_worked_for",
    ),
]
