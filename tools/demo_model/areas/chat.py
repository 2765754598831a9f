"""Small talk: greetings and who the model is; never held out and never scored."""

from __future__ import annotations

from random import Random

from ..item import Item

NAME = "I am q3edge's demo model, a very small Qwen3-shaped network."

_TALK: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "en",
        ("Hello", "Hello!", "Hi", "Hi there!", "Good morning!"),
        "The user greets me.",
        "Hello! How can I help you?",
    ),
    (
        "en",
        ("Who are you?", "What are you?", "What is your name?", "Introduce yourself."),
        "The user asks who I am.",
        NAME,
    ),
    (
        "en",
        ("What can you do?", "How can you help me?", "What do you know?"),
        "The user asks what I can do.",
        "I answer small questions: facts, sums, tiny programs and a few languages.",
    ),
    ("en", ("Thanks", "Thank you!", "Thanks a lot!"), "The user thanks me.", "You're welcome!"),
    ("en", ("Bye", "Goodbye!", "See you later."), "The user says goodbye.", "Goodbye!"),
    ("en", ("How are you?", "How are you today?"), "The user asks how I am.", "I am fine, thank you!"),
    (
        "en",
        ("What is q3edge?", "Tell me about q3edge."),
        "The user asks about q3edge.",
        "q3edge turns Qwen3 checkpoints into quantized ONNX models for CPUs.",
    ),
    ("zh", ("你好", "你好！", "早上好！"), "用户在问好。", "你好！有什么可以帮你？"),
    ("zh", ("你是谁？", "你叫什么名字？"), "用户问我是谁。", "我是q3edge的演示模型。"),
    ("es", ("Hola", "¡Hola!", "Buenos días"), "El usuario saluda.", "¡Hola! ¿En qué puedo ayudarte?"),
    (
        "es",
        ("¿Quién eres?", "¿Cómo te llamas?"),
        "El usuario pregunta quién soy.",
        "Soy el modelo de demostración de q3edge.",
    ),
    ("ar", ("مرحبا", "مرحبا!", "صباح الخير"), "المستخدم يحييني.", "مرحبا! كيف أساعدك؟"),
    ("ar", ("من أنت؟", "ما اسمك؟"), "المستخدم يسأل من أنا.", "أنا نموذج العرض من q3edge."),
    (
        "ja",
        ("こんにちは", "こんにちは！", "おはようございます"),
        "ユーザーのあいさつです。",
        "こんにちは！何をお手伝いしましょうか？",
    ),
    (
        "ja",
        ("あなたは誰ですか？", "お名前は？"),
        "ユーザーは私が誰かを聞いています。",
        "私はq3edgeのデモモデルです。",
    ),
)


def sample(rng: Random, thinking: bool) -> Item:
    """Draw one line of small talk with its fixed reply."""
    language, openings, thought, reply = rng.choice(_TALK)
    return Item("chat", language, rng.choice(openings), thought, reply, "")
