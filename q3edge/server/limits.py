"""Bounds on what a client may send, the same for every endpoint."""

from __future__ import annotations

MAX_BODY = 8 * 2**20  # bytes of one request: some ten times the text of the longest context
MAX_HELD = 256 * 2**20  # bytes of all requests that are being carried out
MAX_VALUES = 2**20  # in one field of a request: some 25 times the token ids of the longest context
MAX_NESTED = 2**16  # lists and objects among them
MAX_MEMBERS = 4096  # of one object
MAX_HEADER = 32 * 2**10  # bytes of a request's line and header fields
MAX_CONNECTIONS = 1024
SEND_SECONDS = 30.0  # that a client may take for its header fields, and again for its body
IDLE_SECONDS = 30  # between two requests of one connection
READ_SECONDS = 60.0  # that a client may leave what was sent to it unread
MAX_MESSAGES = 4096
MAX_CHOICES = 16  # answers to one prompt
MAX_PROMPTS = 128  # in one request
MAX_PREFIXES = 64  # saved of one model
MAX_TEXTS = 2048  # in one request: to embed, or documents to rank
MAX_TOOLS = 128
MAX_STOP_IDS = 256
