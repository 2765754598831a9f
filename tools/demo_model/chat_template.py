"""The demo model's chat template (ChatML with Qwen3's thinking rules) and the same rules in Python."""

from __future__ import annotations

from dataclasses import dataclass, field

EMPTY_THOUGHT = "<think>\n\n</think>\n\n"

CHAT_TEMPLATE = r"""{%- set marks = namespace(question=-1) -%}
{%- for turn in messages -%}
  {%- if turn.role == 'user' -%}{%- set marks.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for turn in messages -%}
  {%- if turn.role == 'assistant' -%}
    {%- set thought = '' -%}
    {%- set reply = turn.content or '' -%}
    {%- if turn.reasoning_content is string -%}
      {%- set thought = turn.reasoning_content -%}
    {%- elif '</think>' in reply -%}
      {%- set thought = reply.split('</think>')[0].split('<think>')[-1] -%}
      {%- set reply = reply.split('</think>')[-1].lstrip('\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\n' -}}
    {%- if loop.index0 > marks.question and (loop.last or thought.strip('\n')) -%}
      {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' -}}
    {%- endif -%}
    {{- reply + '<|im_end|>\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
  {%- if enable_thinking is defined and not enable_thinking -%}
    {{- '<think>\n\n</think>\n\n' -}}
  {%- endif -%}
{%- endif -%}
"""


@dataclass(frozen=True)
class Conversation:
    """An optional system message, finished exchanges, and the question that waits for an answer."""

    question: str
    system: str = ""
    earlier: tuple[tuple[str, str], ...] = field(default=())


def prompt_text(conversation: Conversation, thinking: bool = True) -> str:
    """Write the generation prompt, as the chat template does."""
    turns = [("system", conversation.system)] if conversation.system else []
    for question, answer in conversation.earlier:
        turns += [("user", question), ("assistant", answer)]
    turns.append(("user", conversation.question))
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n" + ("" if thinking else EMPTY_THOUGHT)


def reply_text(steps: str, answer: str) -> str:
    """Write the assistant's turn after the prompt; no steps gives the empty thought."""
    return f"<think>\n{steps}\n</think>\n\n{answer}<|im_end|>" if steps else f"{EMPTY_THOUGHT}{answer}<|im_end|>"
