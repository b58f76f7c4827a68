"""Every bound on what a peer may send, in one place. Documented in docs/reference/protocol.md."""

from __future__ import annotations

PROTOCOL_VERSION = 1
SUBPROTOCOL = "wanspec.v1"

MAX_FRAME_BYTES = 1 << 20
"""Largest WebSocket message on any link. A prompt of 128 k tokens takes about 0.5 MB on a draft link."""
MAX_FRAGMENTS = 1024
"""Pieces one WebSocket message may come in (RFC 6455 §5.4); ours come in one."""
MAX_QUEUE_FRAMES = 64
"""Frames held for a reader before the peer is made to wait (TCP back-pressure)."""

MAX_NAME = 128
MAX_REASON = 512
MAX_URL = 512
MAX_LEASE = 16_384
"""Characters of a signed lease, whatever its names and addresses are made of."""
MAX_SECRET = 128
MAX_FEATURES = 32
MAX_MODELS = 16
MAX_ADDRESSES = 8
MAX_PROMPT_TOKENS = 131_072
MAX_TEXT = 600_000
MAX_MESSAGES = 1024
MAX_STOPS = 16
MAX_STOP_TEXT = 1024
MAX_STOP_TOKENS = 64
MAX_TOKEN_TEXT = 1024
"""Characters of one token."""
MAX_TOP_LOGPROBS = 20
MAX_VOCABULARY = 1 << 20
MAX_DRAFT_TOKENS = 64
"""Tokens in one Draft frame."""
MAX_OUTLOOK = 16
"""Draft tokens of others that one Verdict tells of."""
MAX_VERIFYING_MICROSECONDS = 3_600_000_000
"""An hour: what takes longer is announced as if it took as long."""
MAX_WINDOW = 1024
"""Positions a drafter may run ahead, and tokens it may have outstanding."""
MAX_DRAFTED = MAX_PROMPT_TOKENS * MAX_WINDOW
"""Draft tokens of one session, in counts: a full window every round, and a round settles at least one position."""
MAX_TOKENS_PER_ROUND = 256
MAX_RECEIPTS = 256
MAX_DRAFTERS = 16
MAX_PEERS = 1024
"""Nodes that one message names: won_by_peer, exclude."""
MAX_NODE_SLOTS = 1024
"""Sessions a node drafts for at once, and leases it holds."""
MAX_TARGET_SLOTS = 4096
MAX_QUEUE = 65_536
"""Requests that wait at a target."""
MAX_PROBE_TOKENS = 4096
"""The prefix of a probe."""
MAX_SESSIONS = 1 << 20
MAX_SUCCESSIONS = 8
"""Changes of its key a coordinator can prove to a peer that pinned an old one."""
MAX_LANDMARKS = 4
"""Targets a node is asked to time at once."""
MAX_TIMED_SECONDS = 60.0

HANDSHAKE_SECONDS = 10.0
PING_SECONDS = 2.0
PINGS_AT_ONCE = 64
"""Pings of one side that may come at once, and WebSocket's own pings and pongs: as a way delivers that stood still."""
PINGS_A_SECOND = 8.0
"""And so many from then on."""
SILENCE_SECONDS = 10.0
"""A link without a frame for this long is dead; a drafter drops its sessions."""
PONG_SECONDS = 16.0
"""A peer that dials and then leaves all pings unanswered for this long, though it speaks and is read, is cut off."""
FIRST_DRAFT_ROUNDS = 16
"""Of a session that a drafter has for its first draft: in fewer even a good one may come too late. One that sent
nothing for so many gets a receipt that says so."""
LANDMARK_SECONDS = 60.0
"""A node times landmarks no more often than once in this time, however often it is asked."""
FLUSH_TOKENS = 4
FLUSH_SECONDS = 0.010
