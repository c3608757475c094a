"""Prefixes by content: never another's, in memory and from disk, whatever lies there; and contexts that grow."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.local.context import Context
from engines.local.prefix_cache import PrefixCache
from engines.local.prefix_files import PrefixFiles, prefix_key

IDS, OTHER = tuple(range(40)), tuple(range(1, 41))
PLENTY = 1 << 30
EMPTY = Context(0, *(np.zeros((2, 1, 1, 4), np.float32) for _ in range(2)))


def states(ids: Sequence[int]) -> np.ndarray:
    """[layers, kv heads, S, head dim] that say which ids they are of, and after which others."""
    told = np.cumsum(np.asarray(ids, np.float64) + 1).astype(np.float32)
    return np.stack([told, np.asarray(ids, np.float32)])[:, None, :, None] * np.ones(4, np.float32)


def made_of(ids: Sequence[int]) -> Context:
    return EMPTY.extended(states(ids), -states(ids), range(len(ids)))


def compute(ids: Sequence[int], computed: list[Context]) -> Context:
    computed.append(made_of(ids))
    return computed[-1]


def is_of(context: Context, ids: Sequence[int]) -> bool:
    keys, values = context.keys[:, :, : context.length], context.values[:, :, : context.length]
    return context.length == len(ids) and np.array_equal(keys, states(ids)) and np.array_equal(values, -states(ids))


SIZE = made_of(IDS).nbytes
"""Of all prefixes with as many blocks as IDS."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / ".bundle-prefixes"


def files(folder: Path, revision: str = "r", most_bytes: int = PLENTY) -> PrefixFiles:
    return PrefixFiles(folder, revision, most_bytes)


def saved(folder: Path, ids: tuple[int, ...] = IDS, *, revision: str = "r") -> Path:
    files(folder, revision).save(ids, made_of(ids))
    return folder / f"{prefix_key(ids, revision).hex()}.prefix"


def test_what_was_computed_is_there_the_next_time() -> None:
    cache = PrefixCache(PLENTY)
    first, computed_first = cache.obtain(IDS, lambda: made_of(IDS))
    again, reused = cache.obtain(IDS, lambda: pytest.fail("computed twice"))
    assert (computed_first, reused) == (False, True)
    assert again is first
    assert cache.statistics() == {
        "prefixes": 1.0,
        "prefix_bytes": float(SIZE),
        "prefix_hits": 1.0,
        "prefix_misses": 1.0,
    }


def test_a_prefix_that_was_not_computed_is_not_there() -> None:
    cache = PrefixCache(PLENTY)
    with pytest.raises(ZeroDivisionError):
        cache.obtain(IDS, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    _, reused = cache.obtain(IDS, lambda: made_of(IDS))
    assert not reused


def test_the_least_recently_used_goes_when_the_bytes_do_not_suffice() -> None:
    cache = PrefixCache(2 * SIZE)
    kept, dropped, late = (tuple(range(start, start + 40)) for start in range(3))
    for ids in (kept, dropped, kept, late):
        cache.obtain(ids, lambda ids=ids: made_of(ids))
    assert [cache.obtain(ids, lambda ids=ids: made_of(ids))[1] for ids in (kept, late, dropped)] == [True, True, False]
    assert cache.statistics()["prefix_bytes"] == 2 * SIZE


def test_one_that_is_larger_than_the_cache_is_handed_on_and_drops_nothing() -> None:
    cache = PrefixCache(SIZE)
    cache.obtain(IDS, lambda: made_of(IDS))
    long = tuple(range(100))
    assert is_of(cache.obtain(long, lambda: made_of(long))[0], long)
    assert cache.obtain(IDS, lambda: made_of(IDS))[1]


def test_what_comes_back_is_saved_and_a_new_start_reads_it(folder: Path) -> None:
    cache = PrefixCache(PLENTY, files(folder))
    cache.obtain(IDS, lambda: made_of(IDS))
    cache.obtain(OTHER, lambda: made_of(OTHER))
    assert not folder.exists()
    cache.obtain(IDS, lambda: made_of(IDS))
    cache.close()
    assert [path.name for path in folder.iterdir()] == [f"{prefix_key(IDS, 'r').hex()}.prefix"]
    started = PrefixCache(PLENTY, files(folder))
    context, reused = started.obtain(IDS, lambda: pytest.fail("computed"))
    assert reused
    assert is_of(context, IDS)
    assert not started.obtain(OTHER, lambda: made_of(OTHER))[1]


def test_nothing_is_saved_once_it_is_closed(folder: Path) -> None:
    cache = PrefixCache(PLENTY, files(folder))
    cache.obtain(IDS, lambda: made_of(IDS))
    cache.close()
    cache.obtain(IDS, lambda: made_of(IDS))
    assert not folder.exists()


def test_a_prefix_in_use_does_not_wait_for_the_disk(folder: Path) -> None:
    gate, begun, written = threading.Event(), threading.Event(), list[tuple[int, ...]]()

    class Slow(PrefixFiles):
        def save(self, ids: Sequence[int], context: Context) -> None:
            begun.set()
            assert gate.wait(60)
            written.append(tuple(ids))

    cache = PrefixCache(PLENTY, Slow(folder, "r", PLENTY))
    for ids in (IDS, IDS, OTHER, OTHER):
        cache.obtain(ids, lambda ids=ids: made_of(ids))
    assert begun.wait(60)
    assert not written
    gate.set()
    cache.close()
    assert written == [IDS]  # the other one's turn is its next use


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: bytes(32) + content[32:],
        lambda content: os.urandom(len(content)),
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    path = saved(folder)
    path.write_bytes(damage(path.read_bytes()))
    cache = PrefixCache(PLENTY, files(folder))
    context, reused = cache.obtain(IDS, lambda: made_of(IDS))
    assert not reused
    assert is_of(context, IDS)
    assert "is not used" in caplog.text
    cache.obtain(IDS, lambda: made_of(IDS))
    cache.close()
    found = files(folder).load(IDS)
    assert found is not None
    assert is_of(found, IDS)


def test_the_file_of_another_prefix_under_this_ones_name_is_not_read(folder: Path) -> None:
    shutil.copyfile(saved(folder, OTHER), folder / f"{prefix_key(IDS, 'r').hex()}.prefix")
    assert files(folder).load(IDS) is None


def test_another_revisions_file_is_not_read_under_whatever_name(folder: Path) -> None:
    other = saved(folder, revision="s")
    assert files(folder).load(IDS) is None
    shutil.copyfile(other, folder / f"{prefix_key(IDS, 'r').hex()}.prefix")
    assert files(folder).load(IDS) is None
    assert files(folder, "s").load(IDS) is not None


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_could_write_into_is_not_used(folder: Path, mode: int) -> None:
    path = saved(folder)
    folder.chmod(mode)
    assert files(folder).load(IDS) is None
    path.unlink()
    files(folder).save(IDS, made_of(IDS))
    assert not list(folder.iterdir())


def test_a_link_in_place_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    saved(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert files(folder).load(IDS) is None


def test_what_cannot_be_saved_is_said_once_and_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    unsaved = files(tmp_path / "file")
    for ids in (IDS, OTHER):
        unsaved.save(ids, made_of(ids))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert unsaved.load(IDS) is None


def test_only_this_user_may_read_what_is_saved(folder: Path) -> None:
    path = saved(folder)
    assert [each.stat().st_mode & 0o777 for each in (folder, path)] == [0o700, 0o600]


def test_files_beyond_the_limit_go_the_longest_unused_first(folder: Path) -> None:
    old, read, new = (tuple(range(start, start + 40)) for start in range(3))
    for at, ids in enumerate((old, read)):
        path = saved(folder, ids)
        os.utime(path, (at, at))
    (folder / "killed.partial").write_bytes(bytes(100))
    os.utime(folder / "killed.partial", (5, 5))
    (folder / "of-somebody-else.txt").write_text("stays")
    limited = files(folder, most_bytes=2 * path.stat().st_size + 50)
    assert limited.load(old) is not None  # and is now the newest
    limited.save(new, made_of(new))
    assert [limited.load(ids) is not None for ids in (old, read, new)] == [True, False, True]
    assert (folder / "of-somebody-else.txt").exists()
    assert not (folder / "killed.partial").exists()


# Few ids and lengths near the blocks' ends: many prefixes are the start of others, or differ in one id.
PREFIXES = st.one_of(
    st.lists(st.integers(0, 1), min_size=1, max_size=5),
    st.integers(30, 66).flatmap(lambda length: st.lists(st.just(1), min_size=length, max_size=length)),
    st.tuples(st.integers(0, 39), st.integers(0, 2)).map(lambda at: [*IDS[: at[0]], at[1], *IDS[at[0] + 1 :]]),
).map(tuple)
STEPS = st.lists(st.one_of(PREFIXES, st.sampled_from(["start again", "swap", "damage"])), max_size=40)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 6), st.integers(1, 6))
def test_a_context_is_always_of_exactly_the_ids_that_were_asked_for(
    steps: list[tuple[int, ...] | str], in_memory: int, on_disk: int
) -> None:
    """Through evictions, starts that read from disk, files under another's name and damaged ones."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "prefixes")

        def started() -> PrefixCache:
            return PrefixCache(in_memory * SIZE, files(folder, most_bytes=on_disk * SIZE))

        cache = started()
        for step in steps:
            if isinstance(step, tuple):
                for _ in range(2):  # the second use saves it
                    computed: list[Context] = []
                    context, reused = cache.obtain(step, partial(compute, step, computed))
                    assert is_of(context, step)
                    assert reused == (not computed)
                    assert cache.statistics()["prefix_bytes"] <= in_memory * SIZE
                continue
            cache.close()
            paths = sorted(folder.glob("*.prefix"))
            if step == "swap" and len(paths) > 1:
                first, second = (path.read_bytes() for path in paths[:2])
                paths[0].write_bytes(second)
                paths[1].write_bytes(first)
            elif step == "damage" and paths:
                paths[0].write_bytes(paths[0].read_bytes()[:-3])
            cache = started()
        cache.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40), st.booleans()), max_size=25))
def test_whatever_extends_a_context_it_stays_what_it_is(steps: list[tuple[int, int, bool]]) -> None:
    """Any of those made so far, by a token or many; some of them sealed."""
    grown: list[tuple[Context, list[int]]] = [(EMPTY, [])]
    for at, count, seal in steps:
        context, ids = grown[at % len(grown)]
        longer_ids = [*ids, *(at + place for place in range(count))]
        new = states(longer_ids)
        longer = context.extended(new, -new, range(len(ids), len(longer_ids)))
        grown.append((longer.sealed() if seal else longer, longer_ids))
    assert all(is_of(context, ids) for context, ids in grown)


def test_tokens_fill_a_block_in_place_and_a_sealed_context_is_never_written_to() -> None:
    first = made_of(IDS[:33])
    second = first.extended(states(IDS), -states(IDS), [33])
    assert second.keys is first.keys
    sealed = second.sealed()
    third = sealed.extended(states(IDS), -states(IDS), [34])
    assert third.keys is not sealed.keys
    with pytest.raises(ValueError, match="read-only"):
        sealed.keys[:] = 0
