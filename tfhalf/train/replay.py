"""Steps run again, from the last checkpoint to the one that went wrong."""

from __future__ import annotations

from tfhalf.train.course import Course
from tfhalf.train.diagnose.divergence import explain
from tfhalf.train.program import TrainProgram


def explain_step(step: int, at: int, course: Course, program: TrainProgram) -> str:
    """The layer at which ``step`` goes wrong, in words, with the weights as they were before it: those of now, which
    are those before step ``at``, moved on again by the steps since."""
    while at < step:
        epoch, done = course.position(at)
        part = course.order(epoch)[done : min(done + program.rows, done + step - at)]
        program.feed(part, epoch, at, course.stage(epoch))
        at += len(part)
    epoch, done = course.position(step)
    stage, index = course.stage(epoch), course.order(epoch)[done]
    with program.step.staged(stage):
        return explain(program.step.alone, program.feed, index, epoch, step, stage.size)
