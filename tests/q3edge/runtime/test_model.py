"""Conversations end to end on a tiny model: bad inputs 34 and 36, settings, stopping, streaming."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from q3edge.errors import InputError, UsageError
from q3edge.runtime.completion import Stream
from q3edge.runtime.engine.engine import Engine
from q3edge.runtime.engine.generate import generate
from q3edge.runtime.engine.slots import Slots
from q3edge.runtime.generation.settings import GenerationSettings
from q3edge.runtime.generation.statistics import Statistics
from q3edge.runtime.model import Model
from q3edge.runtime.text.messages import Message
from tests.helpers.runtime import seal, write_artifact

HELLO: list[Message] = [{"role": "user", "content": "the cat"}]
BAD: Any = {"role": "root", "content": "x"}
CHATTY = GenerationSettings(30, temperature=2.0, seed=1)  # its first tokens are text already


@pytest.fixture
def exact(model: Model) -> Model:
    """The model with passes that hold one row, so that no tie falls otherwise beside other answers."""
    return replace(model, engine=Engine(Slots(model.decoder, 4), deterministic=True))


def greedy(max_new_tokens: int = 12) -> GenerationSettings:
    return GenerationSettings(max_new_tokens)


def test_prompt_longer_than_the_context(model: Model) -> None:
    long: list[Message] = [{"role": "user", "content": "é" * 600}]
    count = len(model.encode_chat(long))
    assert count > 512
    with pytest.raises(UsageError, match=f"prompt has {count} tokens, but the model's context is 512 tokens"):
        model.chat(long)
    with pytest.raises(UsageError, match="prompt is empty"):
        model.generate("")


def test_generation_ends_where_the_context_does(model: Model) -> None:
    stats = Statistics()
    new = list(generate(model.decoder, [5] * 500, greedy(max_new_tokens=10_000), stats))
    assert len(new) == stats.new_tokens == 12
    assert (stats.prompt_tokens, stats.finish_reason, stats.decode_steps) == (500, "length", 11)


def test_prefill_in_chunks_gives_the_same_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [i % 300 for i in range(3, 60)]
    whole = list(generate(model.decoder, prompt, greedy()))
    monkeypatch.setattr("q3edge.runtime.engine.engine.PREFILL_CHUNK", 7)
    assert list(generate(model.decoder, prompt, greedy())) == whole


def test_stop_token_ends_and_is_not_part(model: Model) -> None:
    prompt = model.encode_chat(HELLO)
    free = list(generate(model.decoder, prompt, greedy()))
    assert len(free) == 12
    stop = next(token for token in free if free.index(token) >= 2)
    stats = Statistics()
    settings = GenerationSettings(12, stop_token_ids=frozenset({stop}))
    assert list(generate(model.decoder, prompt, settings, stats)) == free[: free.index(stop)]
    assert stats.finish_reason == "stop"


@pytest.mark.parametrize("seed", range(4))
def test_streamed_pieces_join_to_the_completion(model: Model, seed: int) -> None:
    settings = model.settings(max_new_tokens=30, seed=seed, temperature=2.0, top_k=0)
    stream = model.stream(HELLO, settings)
    with pytest.raises(UsageError, match="the generation is not finished"):
        _ = stream.completion
    pieces = list(stream)
    done = stream.completion
    if not any(notice.code == "thinking-unannounced" for notice in done.notices):
        assert "".join(piece.text for piece in pieces if not piece.thinking) == done.answer
        assert "".join(piece.text for piece in pieces if piece.thinking) == done.thinking
    assert all(piece.text for piece in pieces)
    assert stream.finish() is done
    assert done.text == model.tokenizer.decode(done.token_ids)
    assert model.chat(HELLO, settings).token_ids == done.token_ids
    assert json.loads(json.dumps(done.to_json()))["stats"]["new_tokens"] == len(done.token_ids)

    raw = model.stream_raw("<|im_start|>user\nthe", settings)
    assert "".join(piece.text for piece in raw) == raw.completion.text == raw.completion.answer


def fresh_answer(model: Model, messages: list[Message], **named: Any) -> tuple[int, ...]:
    """Token ids of the answer on an empty cache."""
    return replace(model, engine=Engine(Slots(model.decoder))).chat(messages, greedy(), **named).token_ids


def test_a_second_turn_computes_only_what_is_new(model: Model) -> None:
    first = model.chat(HELLO, greedy())
    again = model.chat(HELLO, greedy())
    assert again.stats.reused_tokens == again.stats.prompt_tokens - 2
    assert again.token_ids == first.token_ids
    turns: list[Message] = [*HELLO, {"role": "assistant", "content": "the mat"}, {"role": "user", "content": "a dog"}]
    second = model.chat(turns, greedy())
    assert second.stats.reused_tokens >= len(model.encode_chat(HELLO))
    assert second.token_ids == fresh_answer(model, turns)
    assert second.to_json()["stats"]["reused_tokens"] == second.stats.reused_tokens


def test_thinking_that_the_template_drops_is_forgotten(model: Model) -> None:
    thought = "<think>\nthe log\n</think>\n\n"
    markup = f"<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n{thought}the mat"
    model.generate(markup, greedy(max_new_tokens=1))
    turns: list[Message] = [
        *HELLO,
        {"role": "assistant", "content": f"{thought}the mat"},
        {"role": "user", "content": "a dog"},
    ]
    second = model.chat(turns, greedy())
    assert second.stats.reused_tokens == len(model.encode_chat(HELLO))
    assert second.token_ids == fresh_answer(model, turns)


def test_an_answer_that_fails_half_way_does_not_disturb_the_next(model: Model) -> None:
    expected = fresh_answer(model, HELLO)

    def interrupt() -> None:
        for _ in model.stream(HELLO, CHATTY):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert model.chat(HELLO, greedy()).token_ids == expected


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_stream_that_is_closed_frees_the_model(model: Model, taken: int) -> None:
    stream = model.stream(HELLO, CHATTY)
    for _ in range(taken):
        next(stream)
    stream.close()
    assert list(stream) == []
    with pytest.raises(UsageError, match="the generation is not finished; it was closed, or failed; ask again"):
        _ = stream.completion
    assert model.chat(HELLO, greedy()).token_ids == fresh_answer(model, HELLO)


def test_a_stream_that_is_dropped_frees_the_model(model: Model) -> None:
    next(model.stream(HELLO, CHATTY))
    gc.collect()
    model.chat(HELLO, greedy(max_new_tokens=1))


def test_streams_of_one_thread_go_on_beside_each_other(exact: Model) -> None:
    expected = [fresh_answer(exact, HELLO), fresh_answer(exact, [{"role": "user", "content": "a dog"}])]
    streams = [exact.stream("the cat", greedy()), exact.stream("a dog", greedy())]
    for _ in range(3):
        for stream in streams:
            next(stream, None)
    assert [stream.finish().token_ids for stream in reversed(streams)] == expected[::-1]


def test_pieces_are_taken_without_waiting_while_another_makes_the_passes(exact: Model) -> None:
    expected = [exact.stream(text, greedy()).finish() for text in ("the cat", "a dog")]
    streams, news = [exact.stream(text, greedy()) for text in ("the cat", "a dog")], [0, 0]
    assert streams[0].take() == []
    for place, stream in enumerate(streams):
        stream.start(on_news=lambda place=place: news.__setitem__(place, news[place] + 1))  # type: ignore[misc]
    texts = ["", ""]
    while not all(stream.finished for stream in streams):
        exact.engine.step()
        for place, stream in enumerate(streams):
            texts[place] += "".join(piece.text for piece in stream.take())
            assert stream.take() == []
    assert texts == [each.text for each in expected]
    assert [stream.completion.token_ids for stream in streams] == [each.token_ids for each in expected]
    assert [stream.take() for stream in streams] == [[], []]
    assert news == [each.stats.new_tokens + (each.stats.finish_reason == "stop") for each in expected]


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_that_has_ended_is_forgotten_by_whom_it_told(model: Model, close: bool) -> None:
    stream = model.stream("the cat", greedy())
    news: list[Stream] = []
    stream.start(on_news=partial(news.insert, 0, stream))  # who is told knows the stream
    while model.engine.busy:
        model.engine.step()
    if close:
        stream.close()
    gone = weakref.ref(stream)
    assert news
    del stream, news
    gc.collect()
    assert gone() is None


def test_an_error_reaches_who_takes_pieces(folder: Path) -> None:
    model = Model.open(folder, threads=1)
    stream = model.stream(HELLO, CHATTY)
    stream.start()
    model.engine.step()
    model.close()
    with pytest.raises(UsageError, match="is closed; open it again"):
        stream.take()
    assert stream.take() == []


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_drafting_gives_the_same_answer(model: Model, folder: Path, temperature: float) -> None:
    settings = model.settings(max_new_tokens=60, temperature=temperature, seed=3)
    expected = model.chat(HELLO, settings)
    assert expected.stats.drafted_tokens == 0
    for flags in ({"speculate": True}, {"draft": folder}):
        with Model.open(folder, threads=1, **flags) as drafting:
            found = drafting.chat(HELLO, settings)
        assert found.token_ids == expected.token_ids
        assert found.stats.decode_steps + found.stats.accepted_tokens == expected.stats.decode_steps


def test_a_draft_needs_the_same_vocabulary(folder: Path, tmp_path: Path) -> None:
    larger = write_artifact(tmp_path / "larger", vocab_size=352)
    with pytest.raises(
        InputError, match=rf"{larger}: its vocabulary \(352 rows\) is not that of {folder} \(320 rows\)"
    ):
        Model.open(folder, threads=1, draft=larger)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    written = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(written + "\n")  # other bytes, the same tokens
    seal(other)
    Model.open(folder, threads=1, draft=other).close()
    (other / "tokenizer.json").write_text(written.replace("<think>", "<thunk>"))
    seal(other)
    with pytest.raises(InputError, match=rf"{other}: its vocabulary"):
        Model.open(folder, threads=1, draft=other)


def test_raw_prompt_is_the_whole_input(model: Model) -> None:
    ids = model.tokenizer.encode_markup("<|im_start|>user\nthe")
    said = model.generate("<|im_start|>user\nthe", greedy())
    assert said.stats.prompt_tokens == len(ids)
    assert model.generate(ids, greedy()).token_ids == model.generate(tuple(ids), greedy()).token_ids == said.token_ids


def test_a_text_is_one_message_of_the_user(model: Model) -> None:
    assert model.encode_chat("the cat") == model.encode_chat(HELLO)
    assert model.chat("the cat", greedy()).token_ids == model.chat(HELLO, greedy()).token_ids


def test_a_batch_is_every_answer_in_order(exact: Model) -> None:
    asked: list[Any] = ["the cat", [{"role": "user", "content": "a dog"}], "the log", "the cat"]
    found = exact.batch(asked, temperature=1.5, seed=4, max_new_tokens=9)
    alone = [exact.chat(each, temperature=1.5, seed=4, max_new_tokens=9) for each in asked]
    assert [done.token_ids for done in found] == [done.token_ids for done in alone]
    assert exact.batch([]) == []


def test_several_answers_share_their_prompt_and_have_seeds_of_their_own(model: Model) -> None:
    prompt, chosen = "the cat sat on the mat and the dog sat on the log", {"temperature": 2.0, "max_new_tokens": 12}
    found = model.batch([prompt], chosen, n=3, seed=4)
    assert len({done.token_ids for done in found}) == 3
    computed = [done.stats.prompt_tokens - done.stats.reused_tokens for done in found]
    assert computed[1:] == [2, 2]
    for index, done in enumerate(found):
        again = model.chat(prompt, chosen, seed=4 + index)
        assert again.token_ids[0] == done.token_ids[0]
    with pytest.raises(UsageError, match="n = 0: give at least 1"):
        model.streams(prompt, 0)


def test_without_stop_tokens_an_answer_has_all_its_tokens(model: Model) -> None:
    stops = sorted(model.defaults.stop_token_ids or ())
    always = dict.fromkeys(stops[:1], 100)
    assert model.chat("the cat", temperature=0, logit_bias=always).token_ids == ()
    done = model.chat("the cat", temperature=0, logit_bias=always, stop_token_ids=[], max_new_tokens=7)
    assert (done.token_ids, done.stats.finish_reason) == (tuple(stops[:1] * 7), "length")
    assert len(model.chat("the cat", temperature=0, logit_bias=always, min_new_tokens=3).token_ids) == 3


def test_a_batch_is_checked_before_its_first_answer(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.decoder, "forward", None)
    with pytest.raises(UsageError, match="role 'root'"):
        model.batch(["the cat sat on the mat", [BAD]])
    assert not model.engine.busy


def test_an_error_in_a_batch_ends_all_of_it(model: Model) -> None:
    suppressed = frozenset(range(320))
    with pytest.raises(UsageError, match="no token is left to choose"):
        model.batch(["the cat", "a dog"], suppress_tokens=suppressed)
    assert not model.engine.busy
    assert model.chat(HELLO, greedy()).token_ids == fresh_answer(model, HELLO)


def test_settings_are_given_in_three_ways(model: Model) -> None:
    chosen: dict[str, Any] = {"max_new_tokens": 20, "temperature": 2.0, "seed": 5}
    expected = model.chat(HELLO, model.settings(thinks=True, **chosen)).token_ids
    assert model.chat(HELLO, chosen).token_ids == expected
    assert model.chat(HELLO, **chosen).token_ids == expected
    assert model.chat(HELLO, {**chosen, "seed": 1}, seed=5).token_ids == expected
    assert model.settings({"top_k": None}, seed=None) == model.defaults
    stops = model.defaults.stop_token_ids
    assert model.settings(GenerationSettings(7), seed=2) == GenerationSettings(7, seed=2, stop_token_ids=stops)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"tempreature": 1},
            "unknown setting 'tempreature': expected some of max_new_tokens, temperature, top_k, top_p",
        ),
        ({"settings": {"stop": "x"}}, "unknown setting 'stop': expected some of max_new_tokens"),
        ({"settings": 0.7}, "settings: give GenerationSettings or a dict, not float"),
        ({"temperature": "hot"}, "temperature: give a number, not 'hot'"),
        ({"temperature": True}, "temperature: give a number, not True"),
        ({"top_k": 1.5}, "top_k: give a whole number, not 1.5"),
        ({"seed": "x"}, "seed: give a whole number, not 'x'"),
        ({"stop_token_ids": 5}, "stop_token_ids: give a set of token ids, not 5"),
        ({"stop_token_ids": ["x"]}, "stop_token_ids: give a set of token ids"),
    ],
)
def test_settings_that_are_none_are_type_errors(model: Model, arguments: dict[str, Any], problem: str) -> None:
    for call in (model.generate, model.chat, model.stream, model.stream_raw):
        with pytest.raises(TypeError, match=problem):
            call("the cat", **arguments)
    with pytest.raises(TypeError, match=problem):
        model.batch(["the cat"], **arguments)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda model: model.chat({"role": "user", "content": "x"}), "messages: give a str, or a list of dicts"),
        (lambda model: model.stream(["the cat"]), "messages: give a str, or a list of dicts"),
        (lambda model: model.batch("the cat"), "conversations: give a list of conversations, not str"),
        (lambda model: model.batch([5]), "messages: give a str, or a list of dicts"),
        (lambda model: model.generate(5), "prompt: give a str or a list of token ids, not int"),
        (lambda model: model.generate(["the"]), "prompt: give a str or a list of token ids"),
        (lambda model: model.chat("x", thinking="no"), "thinking: give True, False, or None"),
        (lambda model: model.chat("x", tools={"name": "f"}), "tools: give a list of dicts"),
        (lambda model: type(model).open(5), "path: give a str or Path, not int"),
        (lambda model: type(model).open(str(model.folder), draft=5), "draft: give a str or Path, not int"),
    ],
)
def test_misuse_is_a_type_error_that_says_what_to_give(
    model: Model, call: Callable[[Any], object], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        call(model)


def test_a_closed_model_refuses_every_call(folder: Path) -> None:
    model = Model.open(str(folder), threads=1)
    begun, running = model.stream("the cat"), model.stream("the cat", CHATTY)
    next(running)
    model.close()
    model.close()
    calls: list[Callable[[], object]] = [
        lambda: model.generate("x"), lambda: model.chat("x"), lambda: model.batch(["x"]), lambda: model.stream("x"),
        lambda: model.stream_raw("x"), lambda: model.encode_chat("x"), lambda: next(begun),
        lambda: next(running), lambda: model.__enter__(),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UsageError, match=f"the model of {folder} is closed; open it again"):
            call()


def test_bad_input_is_a_usage_error(model: Model) -> None:
    with pytest.raises(UsageError, match="role 'root': expected one of"):
        model.chat([BAD])
    with pytest.raises(UsageError, match="the prompt is not valid Unicode at character 0"):
        model.generate("\udcff")
    with pytest.raises(UsageError, match="token id 320: the model has ids 0 to 319"):
        model.generate([1, 320])


def test_folder_without_a_template_needs_raw(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "tokenizer_config.json").unlink()
    seal(copy)
    with Model.open(copy, threads=1) as model:
        with pytest.raises(InputError, match=r"has no chat template.*use --raw"):
            model.chat(HELLO)
        assert model.generate("the cat", greedy()).stats.new_tokens <= 12


def test_settings_come_from_the_checkpoint_unless_flags_are_given(model: Model) -> None:
    assert model.defaults == GenerationSettings(1024, 0.6, 20, 1.0, None, frozenset({283, 297}))
    changed = model.settings(temperature=0, top_k=None, seed=5)
    assert (changed.temperature, changed.top_k, changed.seed) == (0, 20, 5)


def test_ids_out_of_the_vocabulary_are_refused_in_settings(model: Model) -> None:
    with pytest.raises(UsageError, match="stop_token_ids: token id 320: the model has ids 0 to 319"):
        model.generate("the", stop_token_ids=[320])


def test_u8_threads_ask_at_the_same_time(exact: Model) -> None:
    prompts = ["the cat", "a dog", "the log", "on the mat"]
    expected = [fresh_answer(exact, [{"role": "user", "content": prompt}]) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: exact.chat(prompt, greedy()).token_ids, prompts))
    assert found == expected


def test_u8_a_thread_goes_on_beside_the_stream_of_another(exact: Model) -> None:
    stream = exact.stream(HELLO, CHATTY)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(exact.chat, HELLO, greedy()).result().token_ids == fresh_answer(exact, HELLO)
    stream.close()


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"kv_memory": 10}])
def test_a_batch_or_a_memory_of_nothing_is_refused(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Model.open(folder, threads=1, **wrong)


def test_an_answer_that_may_not_fit_the_memory_is_refused_with_the_number(folder: Path) -> None:
    with Model.open(folder, threads=1, kv_memory=100 * 1024) as model:
        each = model.decoder.cache_spec.bytes_per_token()
        fit = 100 * 1024 // each
        with pytest.raises(UsageError, match=rf"may come to 512 tokens, .* kv_memory allows {fit}, 0.0977 MiB"):
            model.generate([5] * 10, max_new_tokens=1000)
        assert model.generate([5] * 10, max_new_tokens=fit - 10, temperature=0).stats.new_tokens > 0


def test_no_request_can_carry_a_template(model: Model) -> None:
    for name in ("chat_template", "chat_template_kwargs", "template", "enable_thinking"):
        extra: dict[str, Any] = {name: "{{ 7 * 7 }}"}
        for call in (model.chat, model.generate):
            with pytest.raises(TypeError, match=f"unknown setting '{name}'"):
                call("the cat", **extra)
        message: Any = {"role": "user", "content": "the cat", name: "{{ 7 * 7 }}"}
        with pytest.raises(UsageError, match=f"message with role, content, {name}: expected role, content"):
            model.chat([message])
    assert model.encode_chat("{{ 7 * 7 }}") != model.encode_chat("49")
