"""Runs that take more memory than planned: who is the cause, what to write, how to go on.

Workers tell with every block what is known of its memory (`penstock.memory.footprints`). Where it
is more than planned, blocks are admitted one at a time until the cause is known; from then on they
are admitted, and recordings that come later are planned, with what was measured.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from penstock.memory.accounting import MIB, PROCESS_ALLOWANCE, THREAD_ALLOWANCE, format_bytes
from penstock.memory.footprints import READING, SLACK_BYTES, Footprint, StepFootprint, is_over

PROBES = 4
"""Blocks that run alone, at most, to find out which step takes more than it declared."""
KEPT_BYTES = 32 * MIB
"""Memory that stays from block to block, from which on it is no accident of heaps and caches."""
PEAK_SLACK = 0.05
"""Part of a prediction by which a peak is above it before that is told."""


class OverrunWarning(RuntimeWarning):
    """A run took more memory than was planned."""


@dataclass(frozen=True)
class Overrun:
    """More memory than planned, and why as far as is known."""

    step: str
    """Processor that takes or keeps it; empty where it is not known."""
    kind: Literal["takes", "keeps", "peak"]
    planned: int
    """What was declared: beside its input for a block, or predicted for the whole run [bytes]."""
    measured: int
    """What was taken or kept instead [bytes]."""
    advice: str = ""
    scratch: float | None = None
    """What the processor should declare, as a multiple of its input."""

    def __str__(self) -> str:
        if self.kind == "keeps":
            who = self.step or "something in the pipeline"
            return (
                f"{who} keeps about {format_bytes(self.measured)} a block, which nothing gives "
                "back: no plan can hold that; let it drop what it collects (lists, caches, "
                "globals) or collect into a file"
            )
        if self.kind == "takes":
            what = "the values it gives" if self.step == READING else "its input"
            text = (
                f"{self.step} takes {format_bytes(self.measured)} beside {what} where "
                f"{format_bytes(self.planned)} were declared"
            )
            return f"{text}: {self.advice}" if self.advice else text
        text = (
            f"memory rose to {format_bytes(self.measured)} where {format_bytes(self.planned)} were "
            "predicted"
        )
        if not self.step:
            return f"{text}: something beside the blocks takes it, in this program or a reader"
        text += f", while {self.step} was at work"
        return f"{text}: {self.advice}" if self.advice else text

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for reports."""
        return {**asdict(self), "message": str(self)}


@dataclass(eq=False)
class _Process:
    """What is known of one process."""

    recording: str = ""
    first_floor: int = 0
    first_done: int = 0
    kept: int = 0
    excess: int = 0
    slack: int = 0


@dataclass(eq=False)
class Overruns:
    """What is known of a run's memory, and what follows from it for the tasks to come."""

    found: list[Overrun] = field(default_factory=list)
    learned: dict[str, float] = field(default_factory=dict)
    """Measured scratch of steps, as multiples of their input: for recordings to be opened."""
    probing: bool = False
    """Whether tasks run one at a time, to find out what each takes."""
    _probes: int = 0
    _dismissed: int = 0
    _processes: dict[str, _Process] = field(default_factory=dict)
    _over: dict[str, list[StepFootprint]] = field(default_factory=dict)
    _keeping: Counter[str] = field(default_factory=Counter)
    _times: Counter[str] = field(default_factory=Counter)
    _advice: dict[str, StepFootprint] = field(default_factory=dict)
    _busy: tuple[str, ...] = ()
    _planned: int = 0
    _took: int = 0

    # ------------------------------------------------------------------ what follows

    @property
    def kept(self) -> int:
        """What all processes hold on to that was not planned [bytes]."""
        return sum(process.kept for process in self._processes.values())

    def task_bytes(self, planned: int) -> int:
        """What a block that was planned with so many bytes takes, as far as was measured."""
        if not self._took:
            return planned
        # (an overrun may grow with the block, or not: whichever says more)
        return max(planned * self._took // self._planned, planned + self._took - self._planned)

    # ------------------------------------------------------------------ finding out

    def hear(self, recording: str, process: str, footprint: Footprint) -> list[Overrun]:
        """Take note of a block's memory; what that says which was not known before."""
        known = len(self.found)
        state = self._processes.setdefault(process, _Process())
        slack = SLACK_BYTES + int(PEAK_SLACK * footprint.base)
        state.slack = slack
        state.excess = max(state.excess, footprint.excess)
        if footprint.excess >= max(one.excess for one in self._processes.values()):
            self._busy = footprint.busy
        if footprint.alone:
            self._probes += self.probing
            self._hear_steps(footprint)
            self._hear_floor(recording, state, footprint)
        elif footprint.excess > max(slack, self._dismissed) and not self.found:
            self.probing, self._probes = True, 0
            self._dismissed = 2 * footprint.excess
        if self.found or self._probes >= PROBES:
            self.probing = False
        return self.found[known:]

    def _hear_steps(self, footprint: Footprint) -> None:
        is_block_over = is_over(footprint.took, footprint.planned)
        for step in footprint.steps:
            if step.kept > MIB and not step.cold:
                self._keeping[step.name] += step.kept
                self._times[step.name] += 1
            keeps = step.kept > (step.took - step.declared) / 2
            if not is_block_over or not is_over(step.took, step.declared):
                continue
            if step.cold or step.name == READING:  # (told where the run as a whole is above)
                self._advice.setdefault(step.name, step)
                continue
            seen = self._over.setdefault(step.name, [])
            seen.append(step)
            if len(seen) < 2:
                continue
            least = min(seen, key=lambda one: one.took)
            if keeps:
                self._tell_kept(step.name, min(one.kept for one in seen))
            else:
                self._tell_taken(least, footprint)
            del seen[:-1]

    def _hear_floor(self, recording: str, state: _Process, footprint: Footprint) -> None:
        """A process that holds more before each block than before the last one keeps something."""
        if footprint.done < 1:
            return
        if state.recording != recording or not state.first_floor:
            state.recording = recording
            state.first_floor, state.first_done = footprint.floor, footprint.done
        blocks = footprint.done - state.first_done
        risen = footprint.floor - state.first_floor
        above = footprint.floor - footprint.base - footprint.threads * THREAD_ALLOWANCE
        if blocks >= 2 and risen > KEPT_BYTES:
            state.kept = max(state.kept, risen)
            self._tell_kept(*self._keeper(risen // blocks))
        elif above > state.slack:
            state.kept = max(state.kept, above)
            self._tell_kept(*self._keeper((above + PROCESS_ALLOWANCE) // footprint.done))

    def _keeper(self, a_block: int) -> tuple[str, int]:
        """The step that keeps most, and how much a block: as seen of it, or of the process."""
        if not self._keeping:
            return "", a_block
        name, kept = self._keeping.most_common(1)[0]
        return name, max(a_block, kept // self._times[name])

    def _tell_kept(self, name: str, a_block: int) -> None:
        if not any(one.kind == "keeps" for one in self.found):
            self.found.append(Overrun(name, "keeps", 0, a_block))

    def _tell_taken(self, step: StepFootprint, footprint: Footprint) -> None:
        if footprint.took * max(1, self._planned) > self._took * footprint.planned:
            self._planned, self._took = max(1, footprint.planned), footprint.took
        if step.name in self.learned:
            self.learned[step.name] = max(self.learned[step.name], step.scratch)
            return
        self.learned[step.name] = step.scratch
        self.found.append(_taken(step))

    def finish(self, peak: int, predicted: int) -> list[Overrun]:
        """What the run as a whole says, where no block said which step was the cause."""
        over = max((p.excess - p.slack for p in self._processes.values()), default=0)
        if self.found or (over <= 0 and not is_above(peak, predicted)):
            return []
        if over > 0 and self._advice:  # (seen in one block only)
            found = [_taken(step) for step in self._advice.values()]
        else:
            measured = max(peak, predicted + over)
            step, n = Counter(self._busy).most_common(1)[0] if self._busy else ("", 1)
            about = format_bytes((measured - predicted) / n)
            each = f" for each of {n} at once" if n > 1 else ""
            advice = f"about {about} more than planned{each}" if step else ""
            found = [Overrun(step, "peak", predicted, measured, advice)]
        self.found += found
        return found


def is_above(peak: int, predicted: int) -> bool:
    """Whether a peak is above its prediction by more than measuring can tell."""
    return peak > predicted * (1 + PEAK_SLACK) + SLACK_BYTES


def _taken(step: StepFootprint) -> Overrun:
    advice = step.advice.format(scratch=step.scratch)
    return Overrun(step.name, "takes", step.declared, step.took, advice, step.scratch)
