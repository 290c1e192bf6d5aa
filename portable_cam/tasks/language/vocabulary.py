# SPDX-License-Identifier: Apache-2.0
"""Words and their token ids."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from portable_cam.errors import LabelError
from portable_cam.labels import text_of

_STARTS = ("<start>", "<s>", "<bos>", "<sos>", "[CLS]", "[BOS]", "startseq")
_ENDS = ("<end>", "</s>", "<eos>", "[SEP]", "[EOS]", "endseq", "<|endoftext|>")
_PADS = ("<pad>", "[PAD]")
_UNKNOWN = ("<unk>", "[UNK]")
_MOST_WORDS = 1_000_000
# letters with what may stand inside a word; any other sign is a word of its own
_WORD = re.compile(r"<\w+>|\[\w+\]|\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Vocabulary:
    """The words of a model, by token id. Whole words; how subwords are cut is not known here."""

    words: tuple[str, ...]
    source: str = "the vocabulary"

    def __len__(self) -> int:
        return len(self.words)

    @property
    def start(self) -> int | None:
        """The token that a caption begins with, by its usual names."""
        return self._special(_STARTS)

    @property
    def end(self) -> int | None:
        """The token that ends a caption."""
        return self._special(_ENDS)

    @property
    def pad(self) -> int | None:
        """The token that fills up."""
        return self._special(_PADS)

    def find(self, word: str) -> int:
        """The id of a word, exactly or without regard to case; the id of the unknown word if the vocabulary has one.

        Raises:
            LabelError: There is no such word.
        """
        for key in (word, word.casefold()):
            if key in self._ids:
                return self._ids[key]
        folded = {known.casefold(): i for known, i in self._ids.items()}
        if word.casefold() in folded:
            return folded[word.casefold()]
        unknown = self._special(_UNKNOWN)
        if unknown is not None:
            return unknown
        close = difflib.get_close_matches(word.casefold(), folded, n=4)
        hint = f"; close to it are: {', '.join(close)}" if close else ""
        raise LabelError(f"the word '{word}' is not in {self.source}, which has {len(self)} words{hint}")

    def encode(self, text: str | Sequence[str]) -> list[int]:
        """The ids of a text's words; of signs between them, those that the vocabulary has.

        Raises:
            LabelError: A word is not in the vocabulary, or there is none in the text.
        """
        words = _WORD.findall(text) if isinstance(text, str) else list(text)
        ids = [self.find(word) for word in words if word in self._ids or any(c.isalnum() for c in word)]
        if not ids:
            raise LabelError(f"{text!r} holds no words")
        return ids

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The words of token ids, without those that start, end and fill up."""
        special = {self.start, self.end, self.pad}
        return [self[i] for i in ids if i not in special]

    def __getitem__(self, token: int) -> str:
        return self.words[token]

    def check(self, tokens: int | None) -> Vocabulary:
        """Itself, if it has a word for each token that the model scores.

        Raises:
            LabelError: The numbers differ.
        """
        if tokens is not None and tokens != len(self):
            raise LabelError(
                f"{self.source} has {len(self)} words, but the model scores {tokens} tokens: give the vocabulary that "
                "belongs to the model"
            )
        return self

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in reversed(list(enumerate(self.words)))}

    def _special(self, names: Sequence[str]) -> int | None:
        return next((self._ids[name] for name in names if name in self._ids), None)


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read a vocabulary from a file.

    By its suffix: ``.json``, a list of words, or an object from words to ids or from ids to words; anything else is
    text with a word a line, in the order of the ids.

    Raises:
        LabelError: The file cannot be read, is none of these, or leaves an id without a word.
    """
    path = Path(path)
    text = text_of(path, "vocabulary", "text or JSON")
    if path.suffix.lower() == ".json":
        words = _from_json(text, path)
    else:
        words = [line.rstrip("\r") for line in text.split("\n")]
        while words and not words[-1]:
            words.pop()
    if not words:
        raise LabelError(f"{path} holds no words: put a word a line")
    return Vocabulary(tuple(words), str(path))


def _from_json(text: str, path: Path) -> list[str]:
    wanted = 'a list of words, or an object such as {"a": 0}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{path} is not JSON ({error}): a vocabulary is {wanted}") from None
    if isinstance(content, list) and all(isinstance(word, str) for word in content):
        return content
    if isinstance(content, dict) and all(type(i) is int for i in content.values()):
        pairs = {i: word for word, i in content.items()}
    elif isinstance(content, dict) and all(k.isdecimal() and isinstance(w, str) for k, w in content.items()):
        pairs = {int(k[:8]): word for k, word in content.items()}
    else:
        raise LabelError(f"{path} does not hold a vocabulary: it is {wanted}")
    if len(pairs) < len(content) or sorted(pairs) != list(range(len(pairs))) or len(pairs) > _MOST_WORDS:
        raise LabelError(f"{path}: the ids of a vocabulary are 0 to {len(content) - 1}, each once")
    return [pairs[i] for i in range(len(pairs))]
