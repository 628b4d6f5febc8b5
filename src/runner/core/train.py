"""The training loop. It keeps the device busy and reads results a call or two late."""

import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runner.core import feed
from runner.core.call import Call, rows
from runner.core.evaluation import Evaluation
from runner.core.memory import ran_out
from runner.core.program import Program
from runner.core.run import BLIND, Host, Run, Witness
from runner.core.snapshot import Snapshot, Start, copied, on_host
from runner.core.step import evaluated_params
from runner.errors import Refused, TrainingStopped
from runner.trees import is_key

# Calls under way while an earlier one is read: the host of a busy machine may be held
# up for longer than one of them takes.
IN_FLIGHT = 2
RATE_SECONDS = 1.0  # time/steps_per_second is averaged over this


def train(
    program: Program,
    runs: Sequence[Run],
    host: Host,
    start: Start | None = None,
    active: Collection[int] | None = None,
    witness: Witness = BLIND,
) -> Generator[tuple[int, Exception | None], None, Start | None]:
    """Train one run, or several of one program and timetable side by side.

    Row `step` s belongs to the s-th optimizer step, counted from 1: its training loss
    is that of the step's batch before the update, its learning rate the schedule's at
    s - 1 times a plateau's scale, its evaluation that of the parameters after it.

    Args:
      program: a single run's or a population's. It may have more members than there are
        runs: copies of the last run fill it up.
      runs: the runs to train.
      host: gets the rows, and says when to save and to stop.
      start: None is the beginning.
      active: the indices of the runs that haven't ended yet; by default all.
      witness: has some calls computed again.

    Yields:
      the index of a run that ends early and why: None, if `host.stop` said so;
      TrainingStopped, if a training or evaluation loss isn't finite and `train.on_nan`
      is `stop`; or what the `host` raised for it. It gets no further rows; the others
      continue. For each run: Refused, where the witness found that their program does
      something else, and TrainingStopped, where the devices have too little memory.

    Returns:
      None at the end; where `host.may_shrink` and half of a population has ended, where
      the others continue, in a smaller one.

    Raises:
      whatever `host.stopping` returns, once all dispatched results are written.
    """
    unfinished = set(range(len(runs)) if active is None else active)
    try:
        return (yield from _train(program, runs, host, start, unfinished, witness))
    except Refused as error:
        why: Exception = error
    except jax.errors.JaxRuntimeError as error:
        if not ran_out(error):
            raise
        why = TrainingStopped(
            f"a device has too little memory: {str(error).splitlines()[0]} A smaller "
            f"{'hydra.launcher.max_members or ' if program.members else ''}"
            "data.batch_size takes less, as do train.gradient_accumulation, "
            "precision=bfloat16, mesh=fsdp, and verify=false, which has no witness"
        )
    for index in sorted(unfinished):
        yield index, why
    return None


def _train(
    program: Program,
    runs: Sequence[Run],
    host: Host,
    start: Start | None,
    unfinished: set[int],
    witness: Witness,
) -> Generator[tuple[int, Exception | None], None, Start | None]:
    """`train`, which raises Refused. Removes the runs that end from `unfinished`."""
    together, feeder = _together(program, runs, start)
    pace = _Pace()
    began = len(unfinished)
    carry = start.snapshot.carry if start else None

    def shrinks() -> bool:
        """Whether half of a population has ended."""
        return host.may_shrink and 2 * len(unfinished) <= began

    def may_leave() -> bool:
        """Whether the state after an evaluation may be needed."""
        return host.may_stop or host.looks or shrinks()

    calls = _calls(
        program, together, feeder, host, start, may_leave, witness, unfinished
    )
    for call in calls:
        speed = pace.measure(call)
        read = call.read()
        stopped, state = [], None
        if host.looks and call.evaluation:
            assert call.snapshot is not None
            state = on_host(_state(program, call.snapshot.carry))
        for index in sorted(unfinished):
            own = read.own(program, index)
            try:
                for row in rows(own, runs[index].settings.on_nan, speed):
                    host.write(index, row)
                    if state is not None and row["step"] == call.stop:
                        host.look(index, row, program.own(state, index))
                    # Last: a run that fails here doesn't stop, too.
                    if host.stop(index, row) and call.carry is None:
                        stopped.append(index)
            except Exception as error:
                unfinished.remove(index)
                yield index, error
        if not unfinished:
            return None
        witness.read(read)
        wanted = call.wanted
        if stopped and program.members is None and wanted != "always":
            wanted = host.wants(call.stop, evaluated=True, ends=True, stops=False)
        if call.snapshot is not None:
            host.save(call.stop, call.snapshot, wanted)
        if stopped:
            assert call.snapshot is not None
            witness.settle()
            carry = call.snapshot.carry
            for index, error in _finish(program, runs, stopped, host, carry):
                unfinished.remove(index)
                yield index, error
            if not unfinished:
                return None
        if shrinks() and call.snapshot is not None and call.carry is None:
            witness.settle()
            return Start(call.stop, call.snapshot, {})
        carry = call.carry
    witness.settle()
    for index, error in _finish(program, runs, sorted(unfinished), host, carry):
        if error:
            unfinished.remove(index)
            yield index, error
    return None


def evaluate(
    evaluation: Evaluation | None, carry: Any, splits: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The loss and the metrics of a state on `splits`: `split/loss` and so on.

    Also, by split and name, what they were after its first call.
    """
    assert evaluation is not None
    evaluated = evaluation.call.result()
    found, begun, columns = {}, {}, evaluation.columns()
    for split in splits:
        totals, numbers = evaluation.totals, {}
        for batches in evaluation.batches(split):
            totals, numbers = evaluated(carry, columns, batches, totals)
            begun.setdefault(split, numbers)
        found |= {f"{split}/{name}": value for name, value in numbers.items()}
    return found, begun


def _finish(
    program: Program,
    runs: Sequence[Run],
    finished: Sequence[int],
    host: Host,
    carry: Any,
) -> Iterator[tuple[int, Exception | None]]:
    """Evaluate the test splits, once, and hand over the state that the runs end with.

    Both with the best state if it is kept, else the last.

    Yields:
      the index of each run, and what `host.finish` raised, if it did.
    """
    if not finished:
        return
    best = host.best()
    carry = carry if best is None else best
    splits = runs[0].spec.dataset.tests
    numbers = evaluate(program.evaluation, carry, splits)[0] if splits else {}
    found = on_host((_state(program, carry), numbers))
    for index in finished:
        state, numbers = program.own(found, index)
        error = None
        try:
            host.finish(index, state, {name: float(x) for name, x in numbers.items()})
        except Exception as raised:
            error = raised
        yield index, error


def _state(program: Program, carry: Any) -> dict[str, Any]:
    """What `Host.finish` gets of a carry."""
    params = evaluated_params if program.members is None else jax.vmap(evaluated_params)
    return {"params": params(carry), "model_state": carry.state.model_state}


class _Pace:
    """The speed of calls, from when the first of them was compiled."""

    def __init__(self) -> None:
        self._reads: deque[tuple[float, int]] = deque()  # (time, steps done)

    def measure(self, call: Call) -> float:
        """Wait for `call`; steps per second over the last second or so."""
        if not self._reads:
            self._reads.append((call.dispatched, call.start))
        jax.block_until_ready(call.rows)
        now = time.perf_counter()
        self._reads.append((now, call.stop))
        while len(self._reads) > 2 and self._reads[1][0] < now - RATE_SECONDS:
            self._reads.popleft()
        then, done = self._reads[0]
        return (call.stop - done) / (now - then)


def _together(
    program: Program, runs: Sequence[Run], start: Start | None
) -> tuple[Run, feed.TrainFeed]:
    """`runs` as one, whose numbers have a leading member axis in a population."""
    run, orders = runs[0], [runs[0].order]
    if program.members is not None:
        filled = [*runs, *[runs[-1]] * (program.members - len(runs))]
        run = run._replace(
            learning_rates=np.stack([each.learning_rates for each in filled]),
            init_key=_stacked([each.init_key for each in filled]),
            start=_stacked([each.start for each in filled]),
            values=_stacked([each.values for each in filled]),
        )
        orders = [each.order for each in filled]
    feeder = feed.TrainFeed(
        run.spec.dataset,
        orders,
        program.mesh,
        start.step if start else 0,
        has_members=program.members is not None,
    )
    return run, feeder


def _stacked(trees: list[Any]) -> Any:
    def stack(*leaves):
        # A typed PRNG key is no NumPy array.
        return jnp.stack(leaves) if is_key(leaves[0]) else np.stack(leaves)

    return jax.tree.map(stack, *trees)


def _calls(
    program: Program,
    run: Run,
    feeder: feed.TrainFeed,
    host: Host,
    start: Start | None,
    may_leave: Callable[[], bool],
    witness: Witness,
    active: Collection[int],
) -> Iterator[Call]:
    """Dispatch all calls, yielding each one only when the next ones are under way.

    The learning rates of a population, [members, steps], have one more dimension
    than those of a run, as does all that is computed from them.
    """
    *lead, steps = run.learning_rates.shape
    timetable = run.timetable
    logged = timetable.logged
    data = program.data()
    validations = run.spec.dataset.validations
    no_eval_loss: Any = np.full(lead, np.inf, np.float32)
    step, eval_loss = 0, no_eval_loss
    if start:
        step, (carry, eval_loss, _) = start.step, start.snapshot
    else:
        carry = program.init.result()(*run.init_arguments)

    waiting: deque[Call] = deque()
    stopped = None
    while step < steps and stopped is None:
        evaluated = timetable.next_evaluation(step)
        blocks = program.cut.after(step, timetable.next_stop(step))
        stop = step + max(1, blocks * program.cut.block)
        batches, rates = feeder.take(stop - step), run.learning_rates[..., step:stop]
        rest = np.int32(step), eval_loss, run.values
        compiled, first = program.calls(blocks).result(), None
        if step == 0 and blocks and program.cut.block > 1:
            alone = jax.tree.map(lambda x: x[:, :1] if lead else x[:1], batches)
            begun = jax.tree.map(jnp.copy, carry)  # which the call takes over
            _, first = program.calls(0).result()(
                begun, data.train, alone, rates[..., :1], *rest
            )
        dispatched = time.perf_counter()
        witness.before(step, stop, carry, batches, eval_loss, active)
        carry, rows = compiled(carry, data.train, batches, rates, *rest)
        evaluation, begun = None, {}
        if stop == evaluated and validations:
            evaluation, begun = evaluate(program.evaluation, carry, validations)
        witness.after(carry, evaluation, begun)
        eval_loss = no_eval_loss
        if evaluation:
            eval_loss = evaluation.get("validation/loss", no_eval_loss)
        host.dispatched((rows, evaluation))
        stopped = host.stopping() if stop < steps else None
        wanted = host.wants(
            stop,
            evaluated=stop == evaluated,
            ends=stop == steps,
            stops=stopped is not None,
        )
        # Now, since the carry is donated to the next call.
        snapshot = None
        if wanted != "no" or (stop == evaluated and may_leave()):
            placed = jax.device_put(eval_loss, program.mesh.own)
            snapshot = copied(Snapshot(carry, placed))
        waiting.append(Call(
            step, stop, dispatched, logged[step:stop], rows, first, evaluation,
            snapshot, wanted, carry if stop == steps else None,
        ))  # fmt: skip
        step = stop
        # A snapshot takes the memory of a state, so it is saved soon.
        while len(waiting) > (IN_FLIGHT if snapshot is None else 1):
            yield waiting.popleft()
    yield from waiting
    if stopped is not None:
        raise stopped
