"""The words of the bundled models: whole words split at spaces, one table for both."""

from greedyprune.testbed.assets import DIGITS, LETTERS
from greedyprune.testbed.layout import COLOURS, SHAPES
from greedyprune.testbed.questions import COLUMNS, PLURALS, ROWS

SPECIAL = (
    "<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", "<|im_start|>", "<|im_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "user", "assistant", "system",
)  # fmt: skip
FUNCTION = (
    "?", "is", "there", "a", "yes", "no", "how", "many", "what", "color", "shape", "shapes", "the", "one", "where",
    "of", "above", "below", "digit", "on", "tile", "does", "sign", "say", "white", "larger", "smaller", "different",
    "missing",
)  # fmt: skip
WORDS = tuple(
    dict.fromkeys((*SPECIAL, *FUNCTION, *ROWS, *COLUMNS, *COLOURS, *SHAPES, *PLURALS.values(), *DIGITS, *LETTERS))
)
SIZE = 112  # rows of the embedding: a few are free
IDS = {word: i for i, word in enumerate(WORDS)}


def encode(text: str) -> list[int]:
    """Words, with spaces between them, as token ids."""
    return [IDS[word] for word in text.split()]
