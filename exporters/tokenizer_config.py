"""tokenizer_config.json of an artifact: what transformers 5 saves there and beside it, as other readers know it.

transformers.js reads no chat_template.jinja of a text model, and transformers 4 no class TokenizersBackend and no list
of extra special tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

from q3edge.artifact import Notice
from q3edge.artifact.side_files import CHAT_TEMPLATE_FILE, TOKENIZER_CONFIG_FILE
from q3edge.runtime.text.template_file import read_template
from q3edge.storage.json_files import read_json_object

_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}  # the same class, by its name of transformers 4


def widen_tokenizer_config(folder: Path) -> tuple[Notice, ...]:
    """Rewrite folder/tokenizer_config.json where a reader would not know a field; returns a Notice of what changed.

    Nothing happens without the file. InputError: it is not JSON, or the template is not UTF-8 text.
    """
    path = folder / TOKENIZER_CONFIG_FILE
    if not path.exists():
        return ()
    fields = read_json_object(path)
    changed = dict(fields)
    template = read_template(folder) if (folder / CHAT_TEMPLATE_FILE).exists() else None
    if template is not None:
        changed["chat_template"] = template.text
    name = fields.get("tokenizer_class")
    if isinstance(name, str) and name in _CLASSES:
        changed["tokenizer_class"] = _CLASSES[name]
    if isinstance(extra := fields.get("extra_special_tokens"), list):
        del changed["extra_special_tokens"]
        older = fields.get("additional_special_tokens") or []
        changed["additional_special_tokens"] = [*older, *(token for token in extra if token not in older)]
    rewritten = [key for key in {**fields, **changed} if fields.get(key) != changed.get(key)]
    if not rewritten:
        return ()
    path.write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")
    detail = f"{TOKENIZER_CONFIG_FILE}: {', '.join(rewritten)} written as transformers 4 and transformers.js read them"
    return (Notice("tokenizer-config-rewritten", len(rewritten), detail),)
