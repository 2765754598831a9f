"""`PrefixTree`: keys and values of texts that have ended, in a radix tree over their token ids.

What texts have in common is held once. It knows neither cache nor decoder: a state is a tuple of arrays whose first
axis is tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

State: TypeAlias = tuple[NDArray[Any], ...]


@dataclass(slots=True, eq=False)
class _Node:
    """Tokens that follow those of the parent, and their state; `used`: when a text last came here."""

    ids: list[int]
    state: State
    parent: _Node | None
    used: int = 0
    children: dict[int, _Node] = field(default_factory=dict)  # by the first of their tokens


class PrefixTree:
    """Texts of at most `limit` tokens in all; what was not used for the longest time makes way, ends of texts first."""

    def __init__(self, limit: int) -> None:
        """Start without texts."""
        self.limit = limit
        self.tokens = 0
        self._root = _Node([], (), None)
        self._clock = 0

    def longest(self, ids: Sequence[int]) -> int:
        """Number of leading tokens of `ids` whose state is held."""
        return sum(count for _, count in self._path(ids))

    def states(self, ids: Sequence[int]) -> list[State]:
        """States of the leading tokens of `ids` that are held, piece after piece; they count as used."""
        self._clock += 1
        found = []
        for node, count in self._path(ids):
            node.used = self._clock
            found.append(tuple(array[:count] for array in node.state))
        return found

    def insert(self, ids: Sequence[int], read: Callable[[int, int], State]) -> None:
        """Hold the text `ids`; `read` copies the state of its tokens from one position to another.

        Of a text that is longer than the limit only the beginning is held.
        """
        ids = list(ids[: self.limit])
        parent, known = self._root, 0
        self._clock += 1
        for node, count in list(self._path(ids)):
            parent, known = (node if count == len(node.ids) else self._split(node, count)), known + count
            parent.used = self._clock
        if known < len(ids):
            rest = _Node(ids[known:], read(known, len(ids)), parent, self._clock)
            parent.children[rest.ids[0]] = rest
            self.tokens += len(rest.ids)
        self.shrink(self.limit)

    def shrink(self, tokens: int) -> None:
        """Forget ends of texts, the longest unused first, until at most `tokens` are held."""
        while self.tokens > max(tokens, 0):
            leaf = min((node for node in self._nodes() if not node.children), key=lambda node: node.used)
            assert leaf.parent is not None
            del leaf.parent.children[leaf.ids[0]]
            self.tokens -= len(leaf.ids)

    def _path(self, ids: Sequence[int]) -> Iterator[tuple[_Node, int]]:
        """Nodes that `ids` lead through, with the number of tokens that they share, all of them but in the last."""
        node, position = self._root, 0
        while position < len(ids) and (child := node.children.get(ids[position])) is not None:
            shared = common_length(child.ids, ids[position : position + len(child.ids)])
            yield child, shared
            if shared < len(child.ids):
                return
            node, position = child, position + shared

    def _split(self, node: _Node, count: int) -> _Node:
        """Put a node with the first `count` tokens of `node` before it; returns that."""
        assert node.parent is not None
        # Copies: of a view the whole array would stay.
        first = _Node(node.ids[:count], tuple(a[:count].copy() for a in node.state), node.parent, node.used)
        node.parent.children[first.ids[0]] = first
        node.ids, node.parent = node.ids[count:], first
        node.state = tuple(array[count:].copy() for array in node.state)
        first.children[node.ids[0]] = node
        return first

    def _nodes(self) -> Iterator[_Node]:
        left = list(self._root.children.values())
        while left:
            node = left.pop()
            left += node.children.values()
            yield node


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of leading tokens that two lists share."""
    same, differs = 0, min(len(one), len(other)) + 1  # so many are the same, and so many are not
    while differs - same > 1:
        middle = (same + differs) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            differs = middle
    return same
