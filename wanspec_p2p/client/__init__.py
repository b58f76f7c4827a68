"""The submitter's library: the target's text, streamed, and whose draft settled each token of it."""

from wanspec_p2p.client.answers import Answer, Model, Piece, Speculation, Usage
from wanspec_p2p.client.asynchronous import AsyncAnswerStream, AsyncClient
from wanspec_p2p.client.blocking import AnswerStream, Client

__all__ = [
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncClient",
    "Client",
    "Model",
    "Piece",
    "Speculation",
    "Usage",
]
