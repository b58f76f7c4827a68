"""What a submitter gets back: response bodies and stream chunks of the OpenAI API, with our figures beside them. Pure.

Two conventions for speculation's figures are filled (docs/reference/http-api.md): OpenAI's prediction tokens in
`usage`, and vLLM's `metrics.speculative_decoding`. What is ours alone is under `wanspec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.openai_schema import Asked
from wanspec_p2p.errors import RequestError
from wanspec_p2p.protocol.target_to_coordinator import Finished, ServedModel, TokenLogprob, Tokens, Usage

__all__ = ["Reply", "error_body", "model_body"]

Body = dict[str, Any]


def error_body(error: RequestError) -> Body:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def model_body(model: ServedModel, *, created: int, targets: int) -> Body:
    return {
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "wanspec",
        "fingerprint": model.fingerprint,
        "exactness": model.exactness,
        "context": model.context,
        "max_model_len": model.context,  # vLLM's name for it; benchmarks look there
        "dtype": model.dtype,
        "digest": model.digest,
        "tokenizer": model.tokenizer,
        "targets": targets,
    }


@dataclass(slots=True)
class Reply:
    """One answer in the making. `model` is that of the target that answers."""

    asked: Asked
    model: ServedModel
    created: int  # seconds since the Unix epoch
    text_length: int = 0  # characters so far, for the offsets of text completions

    @property
    def id(self) -> str:
        return ("chatcmpl-" if self.asked.chat else "cmpl-") + self.asked.generate.request

    def opening(self) -> list[Body]:
        """What a stream starts with: a chat says who speaks."""
        if not self.asked.chat:
            return []
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self._chunk([choice], self._progress(len(self.asked.generate.committed), (), ()))]

    def chunk(self, tokens: Tokens) -> Body:
        choice: Body = {"index": 0, "logprobs": self._logprobs([tokens]), "finish_reason": None}
        choice |= {"delta": {"content": tokens.text}} if self.asked.chat else {"text": tokens.text}
        self.text_length += len(tokens.text)
        return self._chunk([choice], self._progress(tokens.position, tokens.ids, tokens.origins))

    def closing(self, finished: Finished, count: int) -> list[Body]:
        """What a stream ends with; `count` is the number of tokens sent in it."""
        said: Body = {"delta": {}} if self.asked.chat else {"text": ""}
        choice = {"index": 0, "logprobs": None, "finish_reason": finished.reason.value} | said
        progress = self._progress(len(self.asked.generate.committed) + count, (), ()) | self._seed()
        metrics = self._metrics(finished.usage)
        chunks = [self._chunk([choice], progress) | {"metrics": metrics}]
        if self.asked.include_usage:
            chunks.append(self._chunk([], progress) | {"usage": _usage(finished.usage), "metrics": metrics})
        return chunks

    def whole(self, parts: Sequence[Tokens], finished: Finished) -> Body:
        text = "".join(part.text for part in parts)
        choice: Body = {"index": 0, "logprobs": self._logprobs(parts), "finish_reason": finished.reason.value}
        choice |= {"message": {"role": "assistant", "content": text}} if self.asked.chat else {"text": text}
        ids = [token for part in parts for token in part.ids]
        origins = [origin for part in parts for origin in part.origins]
        return {
            "id": self.id,
            "object": "chat.completion" if self.asked.chat else "text_completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self._fingerprint,
            "choices": [choice],
            "usage": _usage(finished.usage),
            "metrics": self._metrics(finished.usage),
            "wanspec": self._progress(len(self.asked.generate.committed), ids, origins) | self._seed(),
        }

    @property
    def _fingerprint(self) -> str:
        return "fp_" + self.model.fingerprint[:16]

    def _chunk(self, choices: list[Body], progress: Body) -> Body:
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if self.asked.chat else "text_completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
            "wanspec": progress,
        }

    def _progress(self, position: int, ids: Sequence[int], origins: Sequence[str | None]) -> Body:
        return {
            "request": self.asked.generate.request,
            "position": position,
            "token_ids": ids,
            "origin": origins,
        }

    def _seed(self) -> Body:
        """What repeats this answer: send it as `wanspec.seed`, to an engine of the same fingerprint."""
        return {"seed": self.asked.generate.seed.hex(), "fingerprint": self.model.fingerprint}

    def _metrics(self, usage: Usage) -> Body:
        return {"speculative_decoding": _vllm_metrics(usage), "wanspec": self._wanspec_metrics(usage)}

    def _wanspec_metrics(self, usage: Usage) -> Body:
        return {
            "rounds": usage.rounds,
            "drafted": usage.drafted,
            "accepted": usage.accepted,
            "accepted_per_round": usage.accepted / usage.rounds if usage.rounds else 0.0,
            "target_draft_passes": usage.target_draft_passes,
            "won_by_peer": usage.won_by_peer,
            "near_ties": usage.near_ties,
            "late": usage.late,
            "seconds": usage.seconds,
            "fingerprint": self.model.fingerprint,
            "exactness": self.model.exactness,
        }

    def _logprobs(self, parts: Sequence[Tokens]) -> Body | None:
        if self.asked.generate.top_logprobs is None:
            return None
        entries = [entry for part in parts for entry in part.logprobs]
        if self.asked.chat:
            return {"content": [_chat_logprob(entry) for entry in entries], "refusal": None}
        return self._text_logprobs(entries)

    def _text_logprobs(self, entries: Sequence[TokenLogprob]) -> Body:
        """The older form, in columns. Offsets count the tokens' own text; it may run ahead of what was sent."""
        offsets, offset = [], self.text_length
        for entry in entries:
            offsets.append(offset)
            offset += len(entry.text)
        return {
            "tokens": [entry.text for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{text: logprob for _, text, logprob in entry.top} for entry in entries],
            "text_offset": offsets,
        }


def _usage(usage: Usage) -> Body:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.accepted,
            "rejected_prediction_tokens": max(usage.drafted - usage.accepted, 0),
        },
    }


def _vllm_metrics(usage: Usage) -> Body:
    """The names of vLLM's docs/features/speculative_decoding/acceptance_metrics.md."""
    return {
        "mean_acceptance_length": 1.0 + (usage.accepted / usage.rounds if usage.rounds else 0.0),
        "draft_acceptance_rate": usage.accepted / usage.drafted if usage.drafted else 0.0,
        "acceptance_histogram": usage.accepted_histogram,
        "num_spec_steps": usage.rounds,
        "num_accepted_draft_tokens": usage.accepted,
        "num_draft_tokens": usage.drafted,
        "num_spec_tokens": max(len(usage.accepted_histogram) - 1, 0),
    }


def _chat_logprob(entry: TokenLogprob) -> Body:
    return _named(entry.text, entry.logprob) | {"top_logprobs": [_named(text, value) for _, text, value in entry.top]}


def _named(text: str, logprob: float) -> Body:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode(errors="replace"))}
