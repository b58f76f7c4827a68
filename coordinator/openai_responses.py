"""What a submitter gets back: response bodies and stream chunks of the OpenAI API, with our figures beside them. Pure.

Two conventions for speculation's figures are filled (docs/reference/http-api.md): OpenAI's prediction tokens in
`usage`, and vLLM's `metrics.speculative_decoding`. What is ours alone is under `wanspec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.openai_schema import Asked
from coordinator.speculation_figures import vllm_metrics, wanspec_metrics
from wanspec_p2p.errors import RequestError
from wanspec_p2p.protocol.target_to_coordinator import Finished, ServedModel, TokenLogprob, Tokens, Usage

__all__ = ["Reply", "error_body", "model_body", "several"]

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
    begun: bool = False  # the stream has said with what it can be resumed

    @property
    def id(self) -> str:
        return ("chatcmpl-" if self.asked.chat else "cmpl-") + self.asked.generate.request

    def opening(self) -> list[Body]:
        """What a stream starts with: a chat says who speaks."""
        if not self.asked.chat:
            return []
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self._chunk([choice], self._progress(self._start, (), ()))]

    def chunk(self, tokens: Tokens) -> Body:
        """One commit of a stream; the first says what it takes to resume the answer if the stream breaks."""
        choice: Body = {"index": 0, "logprobs": self._logprobs([tokens]), "finish_reason": None}
        choice |= {"delta": {"content": tokens.text}} if self.asked.chat else {"text": tokens.text}
        self.text_length += len(tokens.text)
        progress = self._progress(self._start, (), ())
        if not tokens.echo:  # a prompt that is echoed is no part of the answer
            progress = self._progress(tokens.position, tokens.ids, tokens.origins)
        if not self.begun:
            self.begun, progress = True, progress | self._seed()
        return self._chunk([choice], progress)

    def closing(self, finished: Finished, count: int) -> list[Body]:
        """What a stream ends with; `count` is the number of tokens sent in it."""
        said: Body = {"delta": {}} if self.asked.chat else {"text": ""}
        choice = {"index": 0, "logprobs": None, "finish_reason": finished.reason.value} | said
        progress = self._progress(self._start + count, (), ()) | self._seed()
        chunks = [self._chunk([choice], progress)]
        if self.asked.include_usage:
            chunks.append(self._chunk([], progress) | {"usage": _usage(finished.usage)})
        # In one chunk only, the last: AIPerf takes figures that come twice for those of two answers, and drops both.
        chunks[-1]["metrics"] = self._metrics(finished.usage)
        return chunks

    def whole(self, parts: Sequence[Tokens], finished: Finished) -> Body:
        figures = {"usage": _usage(finished.usage), "metrics": self._metrics(finished.usage)}
        return self.frame([self.choice(0, parts, finished)]) | figures | {"wanspec": self.extension(parts)}

    def frame(self, choices: list[Body]) -> Body:
        """What stands around the choices of an answer that is not streamed."""
        return {
            "id": self.id,
            "object": "chat.completion" if self.asked.chat else "text_completion",
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": self._fingerprint,
            "choices": choices,
        }

    def choice(self, index: int, parts: Sequence[Tokens], finished: Finished) -> Body:
        text = "".join(part.text for part in parts)
        said: Body = {"message": {"role": "assistant", "content": text}} if self.asked.chat else {"text": text}
        return {"index": index, "logprobs": self._logprobs(parts), "finish_reason": finished.reason.value} | said

    def extension(self, parts: Sequence[Tokens]) -> Body:
        """The `wanspec` field of a whole answer; a prompt that is echoed is no part of it."""
        own = [part for part in parts if not part.echo]
        ids = [token for part in own for token in part.ids]
        origins = [origin for part in own for origin in part.origins]
        return self._progress(self._start, ids, origins) | self._seed()

    @property
    def _start(self) -> int:
        """The position of the first token."""
        return len(self.asked.generate.committed)

    @property
    def _fingerprint(self) -> str:
        return "fp_" + self.model.fingerprint[:16]

    def _chunk(self, choices: list[Body], progress: Body) -> Body:
        # Who asks for usage gets the field in every chunk, as from OpenAI; the last one fills it.
        return ({"usage": None} if self.asked.include_usage else {}) | {
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
        return {"speculative_decoding": vllm_metrics(usage), "wanspec": wanspec_metrics(usage, self.model)}

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
            "top_logprobs": [_by_text(entry) for entry in entries],
            "text_offset": offsets,
        }


def several(replies: Sequence[Reply], parts: Sequence[Sequence[Tokens]], ends: Sequence[Finished]) -> Body:
    """One response to several prompts: a choice each, in their order, with a `wanspec` of its own. As with vLLM there
    are no `metrics`, which describe a single answer.
    """
    choices = [
        reply.choice(index, own, end) | {"wanspec": reply.extension(own)}
        for index, (reply, own, end) in enumerate(zip(replies, parts, ends, strict=True))
    ]
    usages = [_usage(end.usage) for end in ends]
    details = [usage.pop("completion_tokens_details") for usage in usages]
    usage = _sum(usages) | {"completion_tokens_details": _sum(details)}
    return replies[0].frame(choices) | {"usage": usage, "metrics": None}


def _sum(counts: Sequence[Body]) -> Body:
    return {name: sum(count[name] for count in counts) for name in counts[0]}


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


def _chat_logprob(entry: TokenLogprob) -> Body:
    return _named(entry.text, entry.logprob) | {"top_logprobs": [_named(text, value) for _, text, value in entry.top]}


def _by_text(entry: TokenLogprob) -> dict[str, float] | None:
    """The likeliest tokens in the older form, the chosen one among them. Of tokens that look alike (parts of one
    character do) the likeliest stands for all.
    """
    if entry.logprob is None:
        return None
    scores: dict[str, float] = {}
    for text, logprob in [*((text, logprob) for _, text, logprob in entry.top), (entry.text, entry.logprob)]:
        scores.setdefault(text, logprob)
    return scores


def _named(text: str, logprob: float | None) -> Body:
    """Clients join `bytes` to characters. Of a token that is a part of one its text, U+FFFD, does not tell them."""
    known = "\N{REPLACEMENT CHARACTER}" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode(errors="replace")) if known else None}
