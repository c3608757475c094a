"""Passes over a bundle's graphs: contexts and token ids in, logits and longer contexts out."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tritonguard.errors import BundleError

from engines.checkpoint import Checkpoint, FloatArray, TextConfig
from engines.local.context import Context
from engines.local.engine_config import EngineConfig
from engines.local.grouping import CHUNK, MOST_OF_ALL, MOST_ROWS, MOST_TOKENS, halves
from engines.local.head_openvino import HeadRuntime
from engines.local.runtime import VISION_GRAPH, VisionRuntime, cores, refuse_foreign
from engines.local.shared import Shared
from engines.local.text_runtime import TextRuntime, load_text_runtime
from engines.local.tree import Past, Tree, going_on, pass_inputs

Pair = tuple[TextRuntime, TextRuntime]
MakePair = Callable[[], Pair]
_LOGGER = logging.getLogger(__name__)
_RESERVED_PREFIX = 512
"""Tokens of the prefix in the pass that asks for memory: longer than most policies'."""
_RESERVE_S = 1.5
"""What such a pass may take: who comes meanwhile waits for its end. Where it takes longer, they lose more by it than
a larger batch does."""


@dataclass(frozen=True)
class Result:
    """Of one row: logits float32 [ends, C]; hidden float32 [ends, hidden]; states, keys and values float32 [layers, kv
    heads, S, head dim] each, None where the tree was its row's last. Views that the next pass overwrites."""

    logits: FloatArray
    hidden: FloatArray
    states: tuple[FloatArray, FloatArray] | None

    @property
    def kept(self) -> tuple[FloatArray, FloatArray]:
        assert self.states is not None, "something goes on behind a last tree"
        return self.states


Ready = Callable[[], list[Result]]
"""A pass that has its inputs."""


class Passes:
    """Not thread-safe. image_token: the id that stands for a piece of an image. vision None: no tower.

    pair: makes two runtimes that may run at the same time, for batches; called in a thread of its own behind the first
    pass, so that no start waits for it. None: batches are not cut.
    """

    def __init__(
        self,
        runtime: TextRuntime,
        config: TextConfig,
        *,
        image_token: int,
        head: HeadRuntime | None = None,
        vision: VisionRuntime | None = None,
        pair: MakePair | None = None,
    ) -> None:
        self._runtime = runtime
        self._make_pair = pair
        self._pair: Pair | None = None
        self._pair_thread: threading.Thread | None = None
        self._beside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="half")
        self._head = head
        self._vision = vision
        self._pace_s = math.inf  # the shortest time of a pass, by its tokens
        self.image_token = image_token
        self.empty = Context.empty(config)

    @classmethod
    def load(cls, folder: Path, how: EngineConfig | None = None) -> Passes:
        """Compile the graphs of a bundle for this CPU.

        how: instead of the bundle's own engine.yaml and the environment. Raises BundleError when they can't be, or not
        for this CPU, and ValueError for a variable of the environment that says nothing.
        """
        # Both read before the graphs are: a folder without them is no bundle.
        config = Checkpoint.read_config(folder)
        how = how or EngineConfig.read(folder).told_by(os.environ)
        refuse_foreign(how)  # and makes the one OpenVINO core, which two threads might make twice
        precision = how.arithmetic
        has_tower = (folder / VISION_GRAPH).is_file()
        # Beside the text graph, which keeps one core busy.
        with ThreadPoolExecutor(max_workers=1) as pool:
            head = pool.submit(HeadRuntime.load, folder, precision=precision)
            vision = pool.submit(VisionRuntime.load, folder, precision=precision) if has_tower else None
            runtime = load_text_runtime(folder, how)
        return cls(
            runtime,
            config,
            image_token=Checkpoint.read_image_token(folder),
            head=head.result(),
            vision=vision.result() if vision else None,
            pair=partial(_load_pair, folder, how) if how.streams == 2 and cores() > 1 else None,
        )

    def run(self, past: Past | Context, trees: Sequence[Tree], candidates: Sequence[int]) -> list[Result]:
        """One pass over trees behind what `past` says, a context that all share for one; logits of the candidates at
        their ends. Where no row has a past of its own, a batch may be cut in two that run at once.
        """
        return self.ready(past, trees, candidates)()

    def ready(self, past: Past | Context, trees: Sequence[Tree], candidates: Sequence[int]) -> Ready:
        """What `run` does, up to the model's own work: that is left to be called, once and before the next pass."""
        past = Shared.one(past, len(trees)) if isinstance(past, Context) else past
        parts = halves([tree.length for tree in trees]) if self._pair and isinstance(past, Shared) else None
        if parts is None or self._pair is None or not isinstance(past, Shared):
            return partial(self._whole, self._ready(self._runtime, past, trees, candidates), trees)
        first, second = (
            self._ready(runtime, past.at(part), [trees[index] for index in part], candidates)
            for runtime, part in zip(self._pair, parts, strict=True)
        )
        return partial(self._both, first, second, [*parts[0], *parts[1]])

    def _whole(self, ready: Ready, trees: Sequence[Tree]) -> list[Result]:
        began = time.monotonic()
        results = ready()
        self._pace_s = min(self._pace_s, (time.monotonic() - began) / sum(tree.length for tree in trees))
        self._begin_pair()
        return results

    def _both(self, first: Ready, second: Ready, places: Sequence[int]) -> list[Result]:
        """places: which tree each result of both halves is of."""
        other = self._beside.submit(second)
        results = dict(zip(places, [*first(), *other.result()], strict=True))
        return [results[place] for place in range(len(places))]

    def wait_for_pair(self) -> None:
        """Returns when batches can be cut, or never will be: for measurements."""
        self._begin_pair()
        if self._pair_thread is not None:
            self._pair_thread.join()

    def reserve(self) -> None:
        """A pass as large as a batch may be. OpenVINO keeps the memory of its operations, and asks for all of it anew
        in each pass that is larger than those before (`benchmarks.forward_profile` shows what that takes). Nothing
        where it would take longer than _RESERVE_S, as the passes so far say.
        """
        self._reserve(self._runtime, MOST_TOKENS)

    def _reserve(self, runtime: TextRuntime, tokens: int) -> None:
        if _RESERVE_S < self._pace_s * tokens < math.inf:
            return
        layers, heads, _, dim = self.empty.keys.shape
        zeros = np.zeros((layers, heads, _RESERVED_PREFIX, dim), np.float32)
        past = Shared.one(Context(_RESERVED_PREFIX, zeros, zeros), MOST_ROWS)
        self._ready(runtime, past, [Tree((0,) * (tokens // MOST_ROWS), last=True)] * MOST_ROWS, (0,))()

    def _ready(self, runtime: TextRuntime, past: Past, trees: Sequence[Tree], candidates: Sequence[int]) -> Ready:
        inputs = pass_inputs(past, trees, candidates=candidates, image_token=self.image_token, padded=True)

        def results() -> list[Result]:
            logits, keys, values, hidden = runtime.run(**inputs)
            states = {row: (keys[:, :, place], values[:, :, place]) for row, place in going_on(trees)}
            return [Result(logits[row], hidden[row], states.get(row)) for row in range(len(trees))]

        return results

    def _begin_pair(self) -> None:
        if self._make_pair is not None and self._pair_thread is None:
            self._pair_thread = threading.Thread(target=self._load, args=(self._make_pair,), name="pair")
            self._pair_thread.start()

    def _load(self, make: MakePair) -> None:
        try:
            pair = make()
            for runtime in pair:
                self._reserve(runtime, int(MOST_OF_ALL * MOST_TOKENS))
            self._pair = pair
        except Exception:
            _LOGGER.warning("batches are not cut in two: the second runtime can't be had", exc_info=True)

    def see(self, pixels: npt.NDArray[np.uint8]) -> FloatArray:
        """pixels [N, size, size, 3] -> features float32 [N x tokens per image, hidden]."""
        if self._vision is None:
            raise BundleError("the bundle has no vision tower")
        features: FloatArray = self._vision.features(pixels)
        return features.reshape(-1, features.shape[-1])

    def extend(self, context: Context, ids: Sequence[int], features: FloatArray | None = None) -> Context:
        """The context with `ids` behind it, of which there is at least one; many of them in pieces."""
        tree = Tree(tuple(ids), features=features)
        while pieces := tree.cut(CHUNK, self.image_token):
            piece, tree = pieces
            [result] = self.run(context, [piece], [0])
            context = context.extended(*result.kept, range(piece.length))
        [result] = self.run(context, [tree], [0])
        return context.extended(*result.kept, range(tree.length))

    def read(self, context: Context, ids: Sequence[int], candidates: Sequence[int]) -> tuple[Context, FloatArray]:
        """The longer context, and logits float32 [C] of the candidates behind the last id."""
        longer, result = self._step(context, ids, candidates)
        return longer, result.logits[0].copy()

    def best_of(self, hidden: FloatArray, without: Sequence[frozenset[int]]) -> list[int]:
        """The likeliest id of the whole vocabulary for each state float32 [N, hidden], each without some."""
        if self._head is None:
            raise BundleError("the bundle has no head for free text")
        return [int(id) for id in self._head.best(hidden, without)[0]]

    def best(self, context: Context, ids: Sequence[int], without: frozenset[int] = frozenset()) -> tuple[Context, int]:
        """The longer context, and the likeliest id of the whole vocabulary behind the last id, `without` some."""
        longer, result = self._step(context, ids, [0])
        return longer, self.best_of(result.hidden[:1], [without])[0]

    def _step(self, context: Context, ids: Sequence[int], candidates: Sequence[int]) -> tuple[Context, Result]:
        tree = Tree(tuple(ids))
        [result] = self.run(context, [tree], candidates)
        return context.extended(*result.kept, range(tree.length)), result


def _load_pair(folder: Path, how: EngineConfig) -> Pair:
    first = load_text_runtime(folder, how, streams=2)
    return first, first.beside()
