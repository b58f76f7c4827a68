"""What the openai package sees of us: one JSON object. Runs in an environment that knows nothing of this project."""

from __future__ import annotations

import asyncio
import json
import sys

import openai

URL, KEY, MODEL = sys.argv[1:]
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
ASKED = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 12, "temperature": 0, "seed": 7}

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY)


def plain() -> dict:
    answer = client.chat.completions.create(**ASKED)
    return {
        "text": answer.choices[0].message.content,
        "finish": answer.choices[0].finish_reason,
        "usage": answer.usage.model_dump(),
        "request": answer._request_id,
        "id": answer.id,
        "fingerprint": answer.system_fingerprint,
        "token_ids": answer.wanspec["token_ids"],
        "metrics": sorted(answer.metrics["speculative_decoding"]),
    }


def streamed() -> dict:
    chunks = list(client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    return {
        "role": chunks[0].choices[0].delta.role,
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "finish": chunks[-2].choices[0].finish_reason,
        "usage": chunks[-1].usage.model_dump(),
        "others": [chunk.usage for chunk in chunks[:-1] if chunk.usage is not None],
        "token_ids": [token for chunk in chunks for token in chunk.wanspec["token_ids"]],
    }


def helper() -> dict:
    with client.chat.completions.stream(**ASKED) as stream:
        # Not the final completion: the package raises where an answer ended for its length.
        return {"text": "".join(event.delta for event in stream if event.type == "content.delta")}


def logprobs() -> dict:
    answer = client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    streamed = client.chat.completions.create(**ASKED, logprobs=True, top_logprobs=3, stream=True)
    return {
        "tokens": [entry.token for entry in content],
        "tops": [len(entry.top_logprobs) for entry in content],
        "greedy": all(entry.logprob == entry.top_logprobs[0].logprob for entry in content),
        "streamed": [
            entry.token
            for chunk in streamed
            if chunk.choices and chunk.choices[0].logprobs
            for entry in chunk.choices[0].logprobs.content
        ],
    }


def completions() -> dict:
    asked = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    scored = client.completions.create(**asked, prompt=[104, 105, 33], echo=True, logprobs=1).choices[0]
    several = client.completions.create(**asked, prompt=["hi", "ho"])
    return {
        "text": client.completions.create(**asked, prompt="hi!").choices[0].text,
        "echo": scored.text,
        "token_logprobs": scored.logprobs.token_logprobs,
        "top_logprobs": scored.logprobs.top_logprobs,
        "several": [(choice.index, choice.text) for choice in several.choices],
        "streamed": "".join(c.choices[0].text for c in client.completions.create(**asked, prompt="hi!", stream=True)),
    }


def refusals() -> dict:
    def error(**asked: object) -> list:
        try:
            client.with_options(max_retries=0).chat.completions.create(**ASKED | asked)
        except openai.APIStatusError as error:
            return [type(error).__name__, error.status_code, error.code, error.param, error.type]
        return []

    return {
        "tools": error(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        "response_format": error(response_format={"type": "json_object"}),
        "n": error(n=2),
        "temperature": error(temperature=-1),
        "model": error(model="nobody"),
        "image": error(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]),
        "key": _with_wrong_key(),
        "long": error(messages=[{"role": "user", "content": "x" * 5000}]),
        "responses": _responses(),
    }


def _with_wrong_key() -> list:
    try:
        openai.OpenAI(base_url=f"{URL}/v1", api_key="wsk-wrong").models.list()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code, error.param, error.type]
    return []


def _responses() -> str:
    try:
        client.responses.create(model=MODEL, input="hi")
    except openai.APIStatusError as error:
        return type(error).__name__
    return ""


async def asynchronous() -> dict:
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as client:
        answer = await client.chat.completions.create(**ASKED)
        return {"text": answer.choices[0].message.content}


def cancelled() -> dict:
    """Hang up on two answers that would take a minute."""
    stream = client.chat.completions.create(**ASKED | {"max_completion_tokens": 4000}, stream=True)
    next(iter(stream))
    stream.close()
    try:
        client.with_options(timeout=0.5, max_retries=0).chat.completions.create(
            **ASKED | {"max_completion_tokens": 4000}
        )
    except openai.APITimeoutError:
        return {"timed_out": True}
    return {"timed_out": False}


models = [model.id for model in client.models.list()]
report = {
    "models": models,
    "model": client.models.retrieve(models[0]).id,
    "plain": plain(),
    "streamed": streamed(),
    "helper": helper(),
    "logprobs": logprobs(),
    "completions": completions(),
    "refusals": refusals(),
    "asynchronous": asyncio.run(asynchronous()),
    "cancelled": cancelled(),
}
sys.stdout.write(json.dumps(report))
