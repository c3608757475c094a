"""The passes of all rows under way, in turn: higher priority first, then what came first, and nobody waits for
another's long answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from engines.local.context import Context
from engines.local.grouping import CHUNK, MOST_PREFIX, MOST_ROWS, SHORT, size_class, together
from engines.local.image_cache import ImageCache
from engines.local.passes import Passes, Result
from engines.local.patience import Patience
from engines.local.prefix_cache import PrefixCache
from engines.local.row import Row
from engines.local.shared import Shared, Shelf
from engines.local.stack import Stack
from engines.local.steps import Seen
from engines.local.tree import Past, Tree, padded_size

Pick = Callable[[Sequence[Row]], list[Row]]
"""Of all rows, those that share the next pass of one kind."""
Turn = Callable[[Sequence[Row]], None]


class Turns:
    """Thread-safe. Rows may join between any two passes, which a thread of its own runs. Those whose rows are done are
    told when the next pass has its inputs, or nothing is left to do: what they do with their answers goes on beside the
    model's work, and not before it.

    There are four kinds of passes: first steps of rows behind their policies' prefixes, in one batch; images; the next
    piece of a long prompt; and short steps of rows that go on (lists, reasoning), each behind its own past. Behind each
    batch of first steps comes one pass of another kind, if any waits, and behind that the next batch.
    """

    def __init__(self, passes: Passes, prefixes: PrefixCache, images: ImageCache) -> None:
        self._passes = passes
        self._prefixes = prefixes
        self._images = images
        self._arrived: list[Row] = []
        self._rows: list[Row] = []
        self._shelf = Shelf()
        self._stacks: dict[int, tuple[list[Row], Stack]] = {}
        self._others: list[tuple[Pick, Turn]] = [(_unseen, self._see), (_long, self._read_on), (_short, self._go_on)]
        self._first_is_next = True
        self._patience = Patience()
        self._closed = self._untold = False
        self._counts = Counter[str](passes=0, pass_rows=0, pass_tokens=0, padding_tokens=0)
        self._lock = threading.RLock()
        self._came, self._went = (threading.Condition(self._lock) for _ in range(2))
        self._passing = threading.Lock()
        self._thread = threading.Thread(target=self._lead, name="passes", daemon=True)
        self._thread.start()

    def run(self, rows: Sequence[Row]) -> None:
        """Returns when all of these are done."""
        with self._lock:
            self._arrived += rows
            self._patience.came(len(rows), time.monotonic())
            self._came.notify()
            self._went.wait_for(lambda: all(row.done for row in rows))

    def reserve(self) -> None:
        """`Passes.reserve`, between the turns of others."""
        with self._passing:
            self._tell()
            self._passes.reserve()

    def end(self) -> None:
        """The thread ends when what is here is done."""
        with self._lock:
            self._closed = True
            self._came.notify()

    def close(self) -> None:
        """Returns when what is here is done, and no pass runs any more."""
        self.end()
        self._thread.join()

    def statistics(self) -> dict[str, float]:
        """Passes so far, their rows and tokens, and by how many tokens lines were rounded up; memory of the shelf."""
        return {
            **{name: float(count) for name, count in self._counts.items()},
            "shelf_bytes": float(self._shelf.nbytes),
        }

    def _lead(self) -> None:
        while True:
            with self._lock:
                if not (self._rows or self._arrived):
                    self._tell()
                self._came.wait_for(lambda: self._rows or self._arrived or self._closed)
                if not (self._rows or self._arrived):
                    return
            try:
                with self._passing:
                    self._turn()
            except BaseException as error:  # whatever it is, nobody may wait for ever
                for row in self._rows:
                    row.fail(error)
                self._leave()

    def _turn(self) -> None:
        with self._lock:
            self._gather()
            # Stable: of one priority, in the order in which they stand.
            self._rows = sorted([*self._rows, *self._arrived], key=lambda row: -row.job.priority)
            self._arrived.clear()
        for row in self._rows:
            if not row.is_late() and not row.started and row.job.pixels is None:
                try:
                    row.start()
                except Exception as error:
                    row.fail(error)
        self._leave()
        if not self._rows:
            return
        turn, rows = self._choose()
        try:
            turn(rows)
        except BaseException as error:
            for row in rows:
                row.fail(error)
        self._leave()

    def _gather(self) -> None:
        """Wait for those who are about to come back, unless there is enough for a pass, or something that goes on."""
        left_s = self._patience.left_s
        if any(row.context is not None for row in self._rows) or self._are_enough() or not left_s(time.monotonic()):
            return
        self._tell()
        self._came.wait_for(
            lambda: self._are_enough() or not left_s(time.monotonic()),
            left_s(time.monotonic()),
        )

    def _are_enough(self) -> bool:
        return len(self._rows) + len(self._arrived) >= MOST_ROWS

    def _leave(self) -> None:
        """Forget rows that are done."""
        if any(row.done for row in self._rows):
            self._untold = True
            self._rows = [row for row in self._rows if not row.done]
            held = self._stacks.items()
            self._stacks = {size: (rows, stack) for size, (rows, stack) in held if not any(row.done for row in rows)}

    def _tell(self) -> None:
        """Those whose rows are done."""
        with self._lock:
            if self._untold:
                self._untold = False
                self._went.notify_all()

    def _choose(self) -> tuple[Turn, list[Row]]:
        """Whose turn it is, of which there is at least one."""
        first = [row for row in self._rows if row.started and row.context is None]
        if not (first and self._first_is_next):
            for kind in self._others:
                pick, turn = kind
                if rows := pick(self._rows):
                    self._others.remove(kind)
                    self._others.append(kind)
                    self._first_is_next = True
                    return turn, rows
        self._first_is_next = False
        # A row that is read in pieces goes alone.
        fitting = [first[0], *(row for row in first[1:] if _length(row) <= CHUNK and _may_share(row, first[0]))]
        chosen = together([_length(row) for row in fitting]) if _length(first[0]) <= CHUNK else [0]
        return self._begin, [fitting[index] for index in chosen]

    def _see(self, rows: Sequence[Row]) -> None:
        """The features of these rows' images, and their first steps."""
        self._tell()
        began = time.monotonic()
        images = [row.job.pixels for row in rows if row.job.pixels is not None]
        seen = iter(self._images.features([image for each in images for image in each], self._passes.see))
        for row, own in zip(rows, images, strict=True):
            features = np.concatenate([next(seen) for _ in own])
            row.took("vision", began)
            row.start(features)

    def _begin(self, rows: Sequence[Row]) -> None:
        """First steps behind prefixes."""
        began = time.monotonic()
        contexts = self._prefixes_of(rows)
        rows = [row for row in rows if not row.done]
        if rows:
            self._read(self._shelf.take([contexts[row.prefix] for row in rows]), rows)
        with self._lock:
            answered = sum(row.done for row in rows)
            self._patience.answered(answered, began_s=began, ended_s=time.monotonic())

    def _read_on(self, rows: Sequence[Row]) -> None:
        """The next piece of a long prompt, or its last one."""
        [row] = rows
        assert row.context is not None
        self._read(Shared.one(row.context, 1), rows)

    def _read(self, past: Shared, rows: Sequence[Row]) -> None:
        """One pass behind these prefixes: of a row that is too long for it a piece, else all steps to their ends."""
        row, began = rows[0], time.monotonic()
        pieces = row.tree.cut(CHUNK, self._passes.image_token)
        if pieces is None:
            self._step(past, rows)
            return
        piece, rest = pieces
        [result] = self._run(past, [piece], (0,))
        row.read(rest, past.context(0).extended(*result.kept, range(piece.length)))
        row.took(row.step.phase, began)

    def _go_on(self, rows: Sequence[Row]) -> None:
        """Short steps of rows that are about as long, each behind its own past."""
        size = _size(rows[0])
        members, stack = self._stacks.pop(size, ([], None))
        more = max(_length(row) for row in rows)
        if stack is None or members != rows or not stack.fits(more):
            stack = Stack.of([row.context for row in rows if row.context is not None], more=more)
        # Behind the others: where not all go together, each gets its turn.
        self._rows.sort(key=lambda row: row in rows)
        self._stacks[size] = (list(rows), stack)
        self._step(stack, rows)

    def _prefixes_of(self, rows: Sequence[Row]) -> dict[tuple[int, ...], Context]:
        """The contexts of these rows' prefixes, cached or computed. Rows whose prefix can't be had are ended."""
        began = time.monotonic()
        found: dict[tuple[int, ...], tuple[Context, bool]] = {(): (self._passes.empty, False)}
        failed: dict[tuple[int, ...], Exception] = {}
        for ids in dict.fromkeys(row.prefix for row in rows if row.prefix):
            try:
                found[ids] = self._prefixes.obtain(ids, partial(self._prefix, ids))
            except Exception as error:
                failed[ids] = error
        for row in rows:
            if row.prefix in failed:
                row.fail(failed[row.prefix])
            else:
                context, reused = found[row.prefix]
                row.reused = context.length if reused else 0
        for row in rows:
            row.took("prefix", began)
        return {ids: context for ids, (context, _) in found.items()}

    def _prefix(self, ids: Sequence[int]) -> Context:
        self._tell()
        return self._passes.extend(self._passes.empty, ids)

    def _step(self, past: Past, rows: Sequence[Row]) -> None:
        """One pass that reads the trees of all these rows to their ends."""
        began = time.monotonic()
        steps = [row.step for row in rows]
        trees = [row.tree for row in rows]
        asked = tuple(sorted({id for step in steps for id in step.candidates})) or (0,)
        results = self._run(past, trees, asked)
        free = [index for index, step in enumerate(steps) if step.without is not None]
        without = [step.without for step in steps if step.without is not None]
        best = self._passes.best_of(np.stack([results[index].hidden[0] for index in free]), without) if free else []
        likeliest = dict(zip(free, best, strict=True))
        for index, (row, step, tree, result) in enumerate(zip(rows, steps, trees, results, strict=True)):
            row.took(step.phase, began)
            columns = [asked.index(id) for id in step.candidates]
            logits = result.logits[: len(tree.ends), columns]
            kept = row.see(Seen(logits, likeliest.get(index, -1)))
            if kept is None:
                continue
            # Now, since the next pass overwrites them.
            if isinstance(past, Stack):
                past.append(index, *result.kept, kept)
                row.context = past.context(index)
            else:
                row.context = past.context(index).extended(*result.kept, kept)

    def _run(self, past: Past, trees: Sequence[Tree], candidates: Sequence[int]) -> list[Result]:
        tokens = sum(tree.length for tree in trees)
        padding = padded_size(tokens) - tokens
        self._counts.update(passes=1, pass_rows=len(trees), pass_tokens=tokens, padding_tokens=padding)
        ready = self._passes.ready(past, trees, candidates)
        self._tell()
        return ready()


def _length(row: Row) -> int:
    return row.tree.length


def _may_share(row: Row, other: Row) -> bool:
    """A pass: behind one prefix, or behind two that are short enough for a shelf."""
    return row.prefix == other.prefix or max(len(row.prefix), len(other.prefix)) <= MOST_PREFIX


def _size(row: Row) -> int:
    return size_class(row.context.length if row.context is not None else 0)


def _unseen(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not row.started and row.job.pixels is not None]


def _long(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.context is not None and _length(row) > SHORT][:1]


def _short(rows: Sequence[Row]) -> list[Row]:
    waiting = [row for row in rows if row.context is not None and _length(row) <= SHORT]
    return [row for row in waiting if _size(row) == _size(waiting[0])][:MOST_ROWS]
