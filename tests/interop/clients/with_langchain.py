"""What langchain-openai sees of us: one JSON object."""

from __future__ import annotations

import json
import sys

import openai
from langchain_openai import ChatOpenAI

URL, KEY, MODEL = sys.argv[1:]


def chat(**options: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{URL}/v1", api_key=KEY, model=MODEL, temperature=0, max_retries=0, **options)


def refused() -> list:
    try:
        chat(max_tokens=4).bind_tools([{"type": "function", "function": {"name": "f", "parameters": {}}}]).invoke("hi")
    except openai.BadRequestError as error:  # or langchain's own kind of it
        return [error.status_code, error.code, error.param]
    return []


def cancelled() -> dict:
    stream = chat(max_tokens=4000).stream("hi")
    next(stream)
    stream.close()
    return {"hung_up": True}


answer = chat(max_tokens=12).invoke("hi")
scored = chat(max_tokens=12, logprobs=True, top_logprobs=2).invoke("hi")
chunks = list(chat(max_tokens=12, stream_usage=True).stream("hi"))
report = {
    "plain": answer.content,
    "usage": answer.usage_metadata,
    "logprobs": len(scored.response_metadata["logprobs"]["content"]),
    "streamed": "".join(chunk.content for chunk in chunks),
    "streamed_usage": next(chunk.usage_metadata for chunk in reversed(chunks) if chunk.usage_metadata),
    "refused": refused(),
    "cancelled": cancelled(),
}
sys.stdout.write(json.dumps(report))
