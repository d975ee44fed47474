"""Ending a run at any moment and going on: the weights are those of a run that was left alone, bit for bit."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from cli_models import keyboard
from train_runs import MemorySource, options, same, tiny_run, train, weights

from sparsedit_core.checkpoint import load_checkpoint
from sparsedit_core.checkpoint import save as checkpoint_save
from sparsedit_core.train import progress, state
from sparsedit_core.train.options import TrainOptions
from sparsedit_core.train.run import Run
from sparsedit_core.train.signals import Interrupted, StopSignals

WORKER = Path(__file__).resolve().parent / "train_worker.py"
WORKERS = options(pictures=160, precision="bf16", accumulate=2)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the worker: sums of several threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The worker's run, not interrupted."""
    out = tmp_path_factory.mktemp("whole") / "x.safetensors"
    train(tiny_run(), out, MemorySource(), WORKERS, cpu=True)
    return out


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps of options(), not interrupted."""
    return go(tmp_path_factory.mktemp("ten") / "x.safetensors")


def go(out: Path, settings: TrainOptions | None = None, *, resume: bool = False, **keywords: Any) -> Path:
    train(tiny_run(), out, MemorySource(), settings or options(), resume=resume, cpu=True, **keywords)
    return out


def states(out: Path) -> list[str]:
    return sorted(path.name for path in out.with_suffix(".state").iterdir())


def stop_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The run breaks down before it makes this step (from 0)."""
    original = Run._step

    def step(run: Run, at: int, *rest: Any) -> Any:
        if at == number:
            raise RuntimeError("power cut")
        return original(run, at, *rest)

    monkeypatch.setattr(Run, "_step", step)


def broken_run(out: Path, monkeypatch: pytest.MonkeyPatch, at: int = 7) -> Path:
    with monkeypatch.context() as patch:
        stop_at(patch, at)
        with pytest.raises(RuntimeError, match="power cut"):
            go(out)
    return out


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_killed_run_goes_on_to_the_same_weights(name: str, tmp_path: Path, whole: Path) -> None:
    number, out = signal.Signals[name], tmp_path / "x.safetensors"
    with keyboard():  # else a child of tests in the background inherits that SIGINT is ignored
        child = subprocess.Popen(
            [sys.executable, str(WORKER), "slow", str(out)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line.strip())
        if line.strip() == "step 13":
            child.send_signal(number)
            break
    rest = child.stdout.read().strip().splitlines()
    code = child.wait(60)
    newest = state.newest_state(out.with_suffix(".state"))
    assert newest is not None
    if name == "SIGKILL":
        assert code == -9
        assert newest.step >= max(int(line.split()[1]) for line in [*lines, *rest] if line.startswith("saved"))
    else:
        assert code == 128 + number
        assert newest.step >= 13
        expected = f"interrupted by {name} after step {newest.step} of 40, saved as step-{newest.step:08d}"
        assert rest[-1].startswith(expected)
        assert load_checkpoint(out).metadata["train"]["seen"] == 4 * newest.step
    train(tiny_run(seed=9), out, MemorySource(), WORKERS, resume=True, cpu=True)  # other weights than at the start
    assert same(out, whole)
    last = Path("x.state") / "step-00000040.safetensors"
    assert same(out.parent / last, whole.parent / last)


def test_the_last_states_are_kept(tmp_path: Path) -> None:
    out = go(tmp_path / "x.safetensors", options(keep=3))
    assert states(out) == [f"step-{n:08d}.{end}" for n in (6, 8, 10) for end in ("json", "safetensors")]


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": lambda path: flipped(path),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:1000]),
    "no tensors": lambda path: path.unlink(),
    "no record": lambda path: path.with_suffix(".json").unlink(),
    "empty record": lambda path: path.with_suffix(".json").write_text(""),
    "foreign record": lambda path: path.with_suffix(".json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_falls_back_loudly(
    damage: str, tmp_path: Path, ten: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = broken_run(tmp_path / "x.safetensors", monkeypatch)
    assert states(out)[-1] == "step-00000006.safetensors"
    DAMAGES[damage](out.with_suffix(".state") / "step-00000006.safetensors")
    seen: list[int] = []
    monkeypatch.setattr(Run, "_follow", lambda run, step, follow=Run._follow: (seen.append(step), follow(run, step)))
    go(out, resume=True)
    assert seen[0] == 4
    assert "step-00000006.safetensors is damaged" in caplog.text
    assert same(out, ten)


def test_no_good_state_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = broken_run(tmp_path / "x.safetensors", monkeypatch)
    for path in out.with_suffix(".state").glob("*.json"):
        path.write_text("{}")
    with pytest.raises(ValueError, match=r"every state in .* is damaged; remove the folder"):
        go(out, resume=True)


def full(monkeypatch: pytest.MonkeyPatch, module: Any, calls: tuple[int, ...]) -> None:
    """The disk is full at these calls of safetensors: some bytes are written, then the system refuses."""
    original, count = module.save_file, [0]

    def save_file(tensors: Any, path: Path, *rest: Any, **keywords: Any) -> None:
        count[0] += 1
        if count[0] in calls:
            Path(path).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        original(tensors, path, *rest, **keywords)

    monkeypatch.setattr(module, "save_file", save_file)


def test_a_full_disk_is_survived(
    tmp_path: Path, ten: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        full(patch, state, (3, 4, 5))  # of the saves after 2, 4, 6, 8 and 10 steps
        full(patch, checkpoint_save, (2,))
        go(out)
    assert caplog.text.count("NO STATE WAS SAVED") == 3
    assert "No space left on device" in caplog.text
    assert caplog.text.count("THE MODEL WAS NOT SAVED") == 1
    assert states(out) == [f"step-{n:08d}.{end}" for n in (2, 4) for end in ("json", "safetensors")]
    assert same(out, ten)
    assert not [path for path in tmp_path.rglob(".*") if path.name.endswith(".tmp")]


def test_a_state_whose_record_does_not_fit_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tensors = tmp_path / "x.state", {"a": torch.zeros(3)}
    state.save_state(folder, 1, tensors, {}, keep=1)
    write = Path.write_text

    def write_text(path: Path, *rest: Any, **keywords: Any) -> int:
        if ".json" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *rest, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write_text)
        with pytest.raises(OSError, match="No space left"):
            state.save_state(folder, 2, tensors, {}, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001.json", "step-00000001.safetensors"]


def test_a_machine_without_the_state_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"step-00000001\.safetensors is not on this machine.* shared disk"):
        state.State(tmp_path / "step-00000001.safetensors", 1, {}).tensors()


def test_no_process_leaves_before_the_state_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    save, original = Run._save, Run._step

    def step(run: Run, number: int, batches: Any, signals: StopSignals) -> Any:
        signals.received = signal.SIGTERM
        return original(run, number, batches, signals)

    monkeypatch.setattr(Run, "_step", step)
    monkeypatch.setattr(Run, "_save", lambda run, *rest, **words: (save(run, *rest, **words), order.append("saved")))
    monkeypatch.setattr(accelerate.Accelerator, "wait_for_everyone", lambda _: order.append("all are here"))
    with pytest.raises(Interrupted, match="after step 1 of 10, saved as step-00000001"):
        go(tmp_path / "x.safetensors")
    assert order == ["saved", "all are here"]


def test_a_disk_that_is_full_at_the_end(tmp_path: Path, ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        full(patch, checkpoint_save, (5,))
        with pytest.raises(OSError, match=r"could not be written .*No space left.* --resume .*step-00000010"):
            go(out)
    assert load_checkpoint(out).metadata["train"]["seen"] == 32  # the one before is whole
    go(out, resume=True)
    assert load_checkpoint(out).metadata["train"]["seen"] == 40
    assert same(out, ten)


CHANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"learning_rate": 1e-4},
    "batch": {"batch": 8},
    "seed": {"seed": 1},
    "pictures": {"pictures": 44},
    "precision": {"precision": "bf16"},
    "micro-batches of a step": {"accumulate": 2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_refused_by_name(name: str, ten: Path) -> None:
    before = {path: path.read_bytes() for path in ten.parent.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=f"other settings: {name} was .* and is now"):
        go(ten, options(**CHANGES[name]), resume=True)
    assert {path: path.read_bytes() for path in ten.parent.rglob("*") if path.is_file()} == before


def test_another_model_or_other_data_are_refused(ten: Path) -> None:
    out = ten
    with pytest.raises(ValueError, match="data was memory-4-40-False and is now memory-4-41-False"):
        train(tiny_run(), out, MemorySource(count=41), options(), resume=True, cpu=True)
    with pytest.raises(ValueError, match=r"model was .*'1\+1x\[1,1,1,1\]\+1'.* and is now .*'2\+1x"):
        train(tiny_run("2+1x[1,1,1,1]+1"), out, MemorySource(), options(), resume=True, cpu=True)
    with pytest.raises(ValueError, match=r"teacher was None and is now [0-9a-f]{16}"):
        train(tiny_run(), out, MemorySource(), options(), resume=True, cpu=True, teacher=tiny_run(None).model)


def test_how_often_is_saved_may_change_and_a_run_without_decay_may_grow(
    tmp_path: Path, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = broken_run(tmp_path / "x.safetensors", monkeypatch)
    go(out, options(save_every=40, keep=1, checkpointing=True), resume=True)
    assert same(out, ten)
    longer = go(tmp_path / "longer.safetensors", options(decay=0.0, pictures=48))
    grown = go(tmp_path / "grown.safetensors", options(decay=0.0))
    assert same(go(grown, options(decay=0.0, pictures=48), resume=True), longer)


def test_a_new_run_does_not_throw_away_an_unfinished_one(
    tmp_path: Path, ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = broken_run(tmp_path / "x.safetensors", monkeypatch)
    with pytest.raises(ValueError, match="step 6 of a run that has not ended; go on with it by --resume"):
        go(out)
    assert len(states(out)) == 4
    assert same(go(tmp_path / "fresh.safetensors", resume=True), ten)  # nothing to go on from: a new run
    assert same(go(out, resume=True), ten)
    go(out, options(pictures=16))  # one that has ended may be replaced, its states too
    assert states(out)[-1] == "step-00000004.safetensors"


def test_the_log_goes_on_where_the_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY", 1)
    out = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(RuntimeError, match="power cut"):
            go(out, watchers=[progress.RunLog(out)])
    lines = out.with_suffix(".log.jsonl")
    assert [row["step"] for row in progress.read_log(lines)] == [1, 2, 3, 4, 5, 6, 7]
    foreign = '{"step": 1, "loss": 0.5}\n'
    lines.write_text(foreign + lines.read_text() + '{"step": 8, "lo')  # killed while it wrote
    go(out, resume=True, watchers=[progress.RunLog(out)])
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert rows[-1]["seconds"] > rows[0]["seconds"] > 0
    table = out.with_suffix(".loss.csv").read_text().splitlines()
    assert table[0] == "pictures,loss,seconds"
    assert [int(line.split(",")[0]) for line in table[1:]] == list(range(4, 41, 4))


def test_a_state_holds_no_more_than_tensors_and_text(ten: Path) -> None:
    out = ten
    tensors = weights(out.with_suffix(".state") / "step-00000010.safetensors")
    groups = {name.partition(".")[0] for name in tensors}
    assert groups == {"model", "average", "optimizer"}
    record = json.loads((out.with_suffix(".state") / "step-00000010.json").read_text())
    assert record["facts"]["finished"] is True
    assert record["facts"]["settings"]["objective"] == "flow"
