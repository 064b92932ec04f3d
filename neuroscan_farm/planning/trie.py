"""The trie of layer paths: whatever prefix two paths share is one chain of nodes, and is computed once.

A path leaves the baseline after its longest prefix in common with the untouched model; its first node hangs there.
A node is one visit to one layer, or to one component of it. Visits are carried out in sweeps over the layers 0..L-1:
after its start a path of one duplicated block, or with skipped layers, visits layers in increasing order and needs one
sweep; every step back to an earlier layer, or to the same one, needs another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from neuroscan_farm.domain.paths import Component, LayerPath, component_of, layer_of


@dataclass(frozen=True, slots=True)
class Node:
    """One visit to one layer, shared by all paths that begin alike."""

    layer: int
    start: int  # the baseline's boundary that the chain of this node began at
    parent: int | None  # the node visited before; None where that is the baseline's boundary `start`
    sweep: int  # in which sweep over the layers the visit takes place
    only: Component | None = None  # the only component that runs; None is the whole layer


@dataclass(frozen=True, slots=True)
class PathTrie:
    """Layer paths as a trie. `len(trie.nodes)` is the fewest layer evaluations that they need beside the baseline."""

    nodes: tuple[Node, ...]
    ends: dict[LayerPath, int | None]  # a path's last node; None where it ends on the baseline
    children: tuple[tuple[int, ...], ...]  # of each node

    @classmethod
    def of(cls, paths: Iterable[LayerPath]) -> PathTrie:
        """Make the trie of these paths; the order of the nodes depends on the set of paths alone."""
        nodes: list[Node] = []
        children: list[list[int]] = []
        known: dict[tuple[int, int | None, int], int] = {}
        ends: dict[LayerPath, int | None] = {}
        for path in sorted(set(paths)):
            start = path.shared_prefix()
            parent: int | None = None
            for step in path.steps[start:]:
                key = (start, parent, step)
                if key not in known:
                    layer, sweep = layer_of(step), 0
                    if parent is not None:
                        before = nodes[parent]
                        sweep = before.sweep + (layer <= before.layer)
                        children[parent].append(len(nodes))
                    known[key] = len(nodes)
                    nodes.append(Node(layer, start, parent, sweep, component_of(step)))
                    children.append([])
                parent = known[key]
            ends[path] = parent
        return cls(tuple(nodes), ends, tuple(map(tuple, children)))

    def visits(self) -> list[tuple[int, tuple[int, ...]]]:
        """Return the layers in the order of the sweeps, each with the nodes that are visited there."""
        by_visit: dict[tuple[int, int], list[int]] = {}
        for index, node in enumerate(self.nodes):
            by_visit.setdefault((node.sweep, node.layer), []).append(index)
        return [(layer, tuple(members)) for (_, layer), members in sorted(by_visit.items())]

    def shares(self) -> dict[LayerPath, float]:
        """Return each path's share of the evaluations: a node's cost is divided by the paths that run through it."""
        users = [0] * len(self.nodes)
        for end in self.ends.values():
            for index in self._chain(end):
                users[index] += 1
        total = max(len(self.nodes), 1)
        return {
            path: sum(1 / users[index] for index in self._chain(end)) / total
            for path, end in self.ends.items()
        }

    def _chain(self, end: int | None) -> Iterable[int]:
        while end is not None:
            yield end
            end = self.nodes[end].parent


def evaluations(paths: Sequence[LayerPath]) -> int:
    """Layer evaluations of one sample on these paths together, beside the baseline's own."""
    return len(PathTrie.of(paths).nodes)
