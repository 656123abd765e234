"""Phi-4's chat format: a conversation to token ids and, in the same pass, which of them are trained.

Every message is `<|im_start|>role<|im_sep|>content<|im_end|>`, one after the other: no line break anywhere, no token
before the first. Ids and mask come from one function, because two functions that must agree eventually do not. The
targets are an assistant's content and the `<|im_end|>` after it, which is how the model learns to stop; the frame and
everything that others say is context. Contents are encoded as ordinary text, so no message can forge another one's
frame; think tokens (`think_tokens.py`), which are content, are spelled by the assistant and the system, not by a user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from megaphi.conversation import Conversation
from megaphi.tokenizer.interface import RenderedConversation, TrainOn

if TYPE_CHECKING:
    from megaphi.tokenizer.phi4 import Phi4Tokenizer


def render_conversation(
    conversation: Conversation,
    tokenizer: Phi4Tokenizer,
    *,
    train_on: TrainOn = "assistant",
    add_generation_prompt: bool = False,
) -> RenderedConversation:
    """Render `conversation` in phi-4's chat format.

    Args:
        train_on: "assistant" trains every assistant message, "last" only the last of them.
        add_generation_prompt: end with `<|im_start|>assistant<|im_sep|>`, untrained, for the model to continue.
    """
    answers = [place for place, message in enumerate(conversation.messages) if message.role == "assistant"]
    targets = set(answers[-1:] if train_on == "last" else answers)
    ids: list[int] = []
    trained: list[bool] = []
    for place, message in enumerate(conversation.messages):
        frame = message_frame(message.role, tokenizer)
        encode = tokenizer.encode if message.role == "user" else tokenizer.encode_answer
        body = [*encode(message.content), tokenizer.message_end]
        ids += frame + body
        trained += [False] * len(frame) + [place in targets] * len(body)
    if add_generation_prompt:
        prompt = message_frame("assistant", tokenizer)
        ids += prompt
        trained += [False] * len(prompt)
    return RenderedConversation(ids, trained)


def message_frame(role: str, tokenizer: Phi4Tokenizer) -> list[int]:
    """Ids of `<|im_start|>role<|im_sep|>`, the frame before a message's content."""
    return [tokenizer.message_start, *tokenizer.encode(role), tokenizer.role_end]
