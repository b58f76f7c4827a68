"""One scenario of the testbed: a coordinator, a target and nodes as processes, answers, and trouble meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from wanspec_p2p.cli.processes import Fleet, with_fleet
from wanspec_p2p.cli.testbed_run import PATIENCE, attached, start_coordinator
from wanspec_p2p.cli.testbed_troupe import Troupe
from wanspec_p2p.cli.testbed_watch import Watch
from wanspec_p2p.client import Answer, AsyncClient
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.models import SIMULATED_TOKENIZER
from wanspec_p2p.simulation.reference import WARM_UP_PROMPT, prompts
from wanspec_p2p.simulation.relay import punctual_loop
from wanspec_p2p.simulation.scenario import Scenario
from wanspec_p2p.simulation.scenario_play import Outcome
from wanspec_p2p.simulation.swarm_peers import SimulatedTokenizer
from wanspec_p2p.simulation.testbed_scene import Seen, stretched
from wanspec_p2p.types import TokenId

__all__ = ["observe"]


def observe(scenario: Scenario, slow: float, seed: int) -> Seen:
    """Play a scenario in real time, all its times stretched by `slow`. Nothing is left when this returns or raises.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came.
        WanspecError: a process did not start, or ended though nobody killed it; or an answer failed.
    """
    with asyncio.Runner(loop_factory=punctual_loop) as runner:
        return runner.run(_observe(stretched(scenario, slow), slow, seed))


async def _observe(scenario: Scenario, slow: float, seed: int) -> Seen:
    return await with_fleet(
        "wanspec-testbed-", lambda fleet, directory, _: _scene(fleet, directory, scenario, slow, seed)
    )


async def _scene(fleet: Fleet, directory: Path, scenario: Scenario, slow: float, seed: int) -> Seen:
    home, coordinator, url, key = await start_coordinator(fleet, directory)
    clock = SystemClock()
    async with Troupe.on_stage(fleet, home, scenario, slow, seed) as troupe, AsyncClient(url, api_key=key) as client:
        target = await fleet.while_alive(troupe.start())
        await fleet.while_alive(attached(client, scenario.per_session))
        questions = _Questions(client, scenario, seed, clock)
        return await fleet.while_alive(questions.ask(troupe, Watch(coordinator, {"target": target}, clock)))


class _Questions:
    """What is asked in a scenario, and whether the answers are right."""

    def __init__(self, client: AsyncClient, scenario: Scenario, seed: int, clock: Clock) -> None:
        self._client, self._scenario, self._clock = client, scenario, clock
        self._text, self._tokenizer = Text(seed), SimulatedTokenizer(SIMULATED_TOKENIZER)

    async def ask(self, troupe: Troupe, watch: Watch) -> Seen:
        own = self._scenario
        identical = True
        if own.warm_up:
            warm = await self._answer(WARM_UP_PROMPT, own.warm_up, lambda: None)
            identical = self._right(WARM_UP_PROMPT, warm)
        asked = prompts(own.at_once)
        before, begun = await watch.look(), self._clock.monotonic()
        async with troupe.in_trouble():
            answers = await asyncio.gather(*(self._answer(one, own.tokens, troupe.after_round) for one in asked))
            span = self._clock.monotonic() - begun
        after = await watch.look()
        return Seen(
            _outcome(answers, span, troupe.lost),
            identical and all(self._right(prompt, answer) for prompt, answer in zip(asked, answers, strict=True)),
            after.late_since(before, "target"),
            after.cores_since(before)["machine"],
        )

    async def _answer(self, prompt: Sequence[TokenId], tokens: int, settled: Callable[[], None]) -> Answer:
        """
        Args:
            settled: called for each piece of the answer; as verifications are far apart, for each round.
        """
        question = self._tokenizer.decode(prompt)
        limit = PATIENCE * (60.0 + tokens * self._scenario.target.pass_ms / 1e3)
        try:
            async with (
                asyncio.timeout(limit),
                self._client.stream(question, raw=True, max_tokens=tokens, temperature=0.0) as stream,
            ):
                async for _ in stream:
                    settled()
                return stream.answer
        except TimeoutError:
            raise WanspecError(f"no answer of {tokens} tokens after {limit:g} s") from None

    def _right(self, prompt: Sequence[TokenId], answer: Answer) -> bool:
        """Whether it is what the target says."""
        due = self._text.continuation(prompt, answer.usage.completion_tokens)
        whole = answer.usage.completion_tokens in (self._scenario.tokens, self._scenario.warm_up)
        return whole and list(answer.token_ids) == due and answer.text == self._tokenizer.decode(due)


def _outcome(answers: Sequence[Answer], span: float, lost: int) -> Outcome:
    speculation = [answer.speculation for answer in answers]
    return Outcome(
        tokens=sum(answer.usage.completion_tokens for answer in answers),
        seconds=sum(own.seconds for own in speculation),
        span=span,
        rounds=sum(own.rounds for own in speculation),
        accepted=sum(own.accepted for own in speculation),
        local_passes=sum(own.target_draft_passes for own in speculation),
        lost=lost,
    )
