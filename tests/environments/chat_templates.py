"""Chat templates with tools, of the structure of well-known ones, and tokenizers that have them."""

from __future__ import annotations

from tests.trained_tokenizers import chat

_CALLS = (
    "{%- for c in m.tool_calls %}"
    "{{- '\\n' if CONTENT or not loop.first else FIRST }}"
    '{{- \'<tool_call>\\n{"name": "\' + c.function.name + \'", "arguments": \' }}'
    "{{- c.function.arguments | tojson }}{{- '}\\n</tool_call>' }}"
    "{%- endfor %}"
)
_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- else %}{%- set system = '' %}"
    "{%- endif %}"
    "{%- if tools or system %}{{- '<|im_start|>system\\n' + system }}"
    "{%- if tools %}{{- '\\n<tools>' }}{%- for t in tools %}{{- '\\n' }}{{- t | tojson }}{%- endfor %}"
    "{{- '\\n</tools>' }}{%- endif %}{{- '<|im_end|>\\n' }}{%- endif %}"
)
_PROMPT = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"

# Results of neighbouring tool messages share one turn of the user's.
_SHARED_TURN = (
    "{%- if not loop.previtem or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}"
    "{%- if not loop.nextitem or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}"
)
QWEN25 = (
    _SYSTEM + "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant' }}"
    "{%- if m.content %}{{- '\\n' + m.content }}{%- endif %}"
    + _CALLS.replace("CONTENT", "m.content").replace("FIRST", "'\\n'")
    + "{{- '<|im_end|>\\n' }}"
    "{%- elif m.role == 'tool' %}" + _SHARED_TURN + "{%- endif %}{%- endfor %}" + _PROMPT
)
# Thoughts: kept where they follow the last question; an empty one is written into a message that is the last.
QWEN3 = (
    _SYSTEM + "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if loop.last or m.reasoning_content %}"
    "{{- '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{%- endif %}{{- m.content or '' }}"
    + _CALLS.replace("CONTENT", "m.content").replace("FIRST", "''")
    + "{{- '<|im_end|>\\n' }}"
    "{%- elif m.role == 'tool' %}" + _SHARED_TURN + "{%- endif %}{%- endfor %}" + _PROMPT
)
# Hermes: a turn of the role `tool` for each result.
HERMES = (
    _SYSTEM + "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<|im_start|>user\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' + (m.content or '') }}"
    + _CALLS.replace("CONTENT", "m.content").replace("FIRST", "''")
    + "{{- '<|im_end|>\\n' }}"
    "{%- elif m.role == 'tool' %}{{- '<|im_start|>tool\\n<tool_response>\\n' + m.content }}"
    "{{- '\\n</tool_response><|im_end|>\\n' }}{%- endif %}{%- endfor %}" + _PROMPT
)
# Llama 3: a call is bare JSON with `parameters`, one in a message; results are written as JSON.
LLAMA3 = (
    "{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}"
    "{%- if tools and loop.first %}{%- for t in tools %}{{- t | tojson }}{{- '\\n\\n' }}{%- endfor %}{%- endif %}"
    "{{- m.content + '<|eot_id|>' }}"
    "{%- elif m.role == 'assistant' %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{%- if m.tool_calls %}"
    "{%- if m.tool_calls | length != 1 %}{{- raise_exception('one call at a time') }}{%- endif %}"
    "{%- set f = m.tool_calls[0].function %}"
    "{{- '{\"name\": \"' + f.name + '\", \"parameters\": ' }}{{- f.arguments | tojson }}{{- '}' }}"
    "{%- else %}{{- m.content }}{%- endif %}{{- '<|eot_id|>' }}"
    "{%- elif m.role == 'tool' %}{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}"
    "{{- m.content | tojson }}{{- '<|eot_id|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)

_CHATML = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
TEMPLATES = {"qwen2.5": QWEN25, "qwen3": QWEN3, "hermes": HERMES, "llama3": LLAMA3}


def with_template(template: str, *, tags: tuple[str, ...] = _TAGS, special: tuple[str, ...] = _CHATML):
    """A tokenizer with a template."""
    return chat(special, tags, template=template)


def tool_tokenizer(kind: str):
    """A tokenizer with one of `TEMPLATES`; in Hermes' the tags are spelled in pieces."""
    if kind == "llama3":
        return with_template(LLAMA3, tags=(), special=("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"))
    return with_template(TEMPLATES[kind], tags=() if kind == "hermes" else _TAGS)
