"""What litellm sees of us, as `openai/…` and as `hosted_vllm/…`: one JSON object."""

from __future__ import annotations

import json
import sys

import litellm

URL, KEY, MODEL = sys.argv[1:]
ASKED = {
    "messages": [{"role": "user", "content": "hi"}],
    "api_base": f"{URL}/v1",
    "api_key": KEY,
    "max_tokens": 12,
    "temperature": 0,
    "num_retries": 0,
}
PROVIDERS = ("openai", "hosted_vllm")


def plain(provider: str) -> dict:
    answer = litellm.completion(model=f"{provider}/{MODEL}", **ASKED, logprobs=True, top_logprobs=2)
    return {
        "text": answer.choices[0].message.content,
        "usage": answer.usage.model_dump(),
        "logprobs": len(answer.choices[0].logprobs.content),
    }


def streamed(provider: str) -> dict:
    chunks = list(
        litellm.completion(model=f"{provider}/{MODEL}", **ASKED, stream=True, stream_options={"include_usage": True})
    )
    usages = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    return {
        "text": "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
        "completion_tokens": usages[-1].completion_tokens,
    }


def refused(**asked: object) -> list:
    try:
        litellm.completion(**{"model": f"openai/{MODEL}"} | ASKED | asked)
    except Exception as error:
        return [type(error).__name__, getattr(error, "status_code", None), str(error)]
    return []


def cancelled() -> dict:
    stream = litellm.completion(model=f"openai/{MODEL}", **ASKED | {"max_tokens": 4000}, stream=True)
    next(iter(stream))
    stream.completion_stream.close()
    return {"hung_up": True}


text = litellm.text_completion(
    model=f"text-completion-openai/{MODEL}", prompt="hi", api_base=f"{URL}/v1", api_key=KEY, max_tokens=4, temperature=0
)
report = {
    "plain": {provider: plain(provider) for provider in PROVIDERS},
    "streamed": {provider: streamed(provider) for provider in PROVIDERS},
    "text": text.choices[0].text,
    "refused": {"model": refused(model="openai/nobody"), "n": refused(n=2), "key": refused(api_key="wsk-wrong")},
    "cancelled": cancelled(),
}
sys.stdout.write(json.dumps(report))
