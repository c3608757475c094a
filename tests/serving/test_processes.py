"""What /proc tells of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving import processes

PARENT = """
import subprocess, sys
from serving.processes import end_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=end_with_parent())
print(child.pid, flush=True)
child.wait()
"""


def eventually(true: Callable[[], bool], most_s: float = 20.0) -> bool:
    end = time.monotonic() + most_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    program = tmp_path / "triton_python_backend_stub"
    program.symlink_to("/bin/sleep")
    return program


def test_a_stage_is_found_and_missed_when_it_is_killed(stub: Path) -> None:
    with subprocess.Popen([stub, "600"]) as stage, subprocess.Popen(["/bin/sleep", "600"]) as other:
        try:
            assert eventually(lambda: processes.stubs(os.getpid()) == {stage.pid})
            assert not processes.missing([stage.pid, other.pid], os.getpid())
            stage.kill()
            # Not waited for: like a stage that its server has not missed yet.
            assert eventually(lambda: processes.missing([stage.pid, other.pid], os.getpid()) == {stage.pid})
            assert not processes.is_alive(stage.pid)
            assert processes.is_alive(other.pid)
        finally:
            other.kill()


def test_a_process_of_another_parent_is_missing() -> None:
    assert processes.missing([os.getppid()], os.getpid()) == {os.getppid()}


def test_shared_regions_of_the_server_are_found() -> None:
    region = Path("/dev/shm") / f"triton_python_backend_shm_region_test-{os.getpid()}"
    program = (
        "import mmap, time; file = open(__import__('sys').argv[1], 'r+b'); "
        "kept = mmap.mmap(file.fileno(), 0); time.sleep(600)"
    )
    region.write_bytes(b"x" * 4096)
    try:
        with subprocess.Popen([sys.executable, "-c", program, region]) as holder:
            try:
                assert eventually(lambda: processes.shared_memory(holder.pid) == {region})
            finally:
                holder.kill()
        assert processes.shared_memory(holder.pid) == frozenset()
    finally:
        region.unlink()


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert processes.is_alive(child)
        parent.kill()
    assert eventually(lambda: not processes.is_alive(child))


def test_in_another_thread_nothing_is_asked_for() -> None:
    got: list[object] = ["unset"]
    thread = threading.Thread(target=lambda: got.__setitem__(0, processes.end_with_parent()))
    thread.start()
    thread.join()
    assert got == [None]
