"""Start decoding processes and give them jobs.

These are plain subprocesses that import only data.decode. Unlike forked processes, they share no locks with the
threads of torch. Unlike the processes of multiprocessing's "spawn", they do not import the training script again.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue

from data.decode import ImageReader, pack
from utils import ROOT, UserError, allowed_cores

# the paths are arguments, since PYTHONPATH splits at ":" and comes after the current folder
COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from data.decode import serve; serve()"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(allowed_cores())


def _start() -> subprocess.Popen:
    """Start a decoding process with one thread."""
    command = [sys.executable, "-c", COMMAND, str(ROOT), *filter(None, map(str, sys.path))]
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _why(process: subprocess.Popen) -> str:
    """Return how a process that gave no answer ended, and what to do."""
    try:
        status = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "gave no readable answer; try again, or use --workers 1"
    if status in (-9, 137):
        return "was killed, perhaps for lack of memory; use fewer workers, or free some memory"
    return f"ended with exit status {status}; see its messages above"


def _send(process: subprocess.Popen, value) -> None:
    """Send a value to a decoding process."""
    pickle.dump(value, process.stdin)
    process.stdin.flush()


def answers(reader: ImageReader, jobs: list[tuple], workers: int):
    """Yield the answer of `data.decode.pack(reader, *job)` for each job, in order, from `workers` processes.

    With one worker the jobs run in this process. Closing the generator ends the processes.

    Raises:
        OSError: a job raised it.
        UserError: a process ended without an answer.
    """
    if workers == 1:
        yield from (pack(reader, *job) for job in jobs)
        return
    idle = SimpleQueue()

    def ask(job):
        process = idle.get()
        try:
            _send(process, job)
            answer = pickle.load(process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise UserError(f"a decoding process {_why(process)}") from error
        finally:
            idle.put(process)
        if isinstance(answer, OSError):
            raise answer
        return answer

    processes, pool = [], ThreadPoolExecutor(workers)  # a thread only waits for its process
    try:
        for _ in range(workers):
            processes.append(_start())
        for process in processes:
            with suppress(BrokenPipeError):  # the process ended at once, which its first job reports
                _send(process, reader)
            idle.put(process)
        yield from pool.map(ask, jobs)
    finally:
        for process in processes:
            process.kill()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.wait()
            process.stdout.close()
            with suppress(BrokenPipeError):  # the process was killed before it read its job
                process.stdin.close()
