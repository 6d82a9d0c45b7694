"""What ends a training with rewards that cannot work, or no longer works, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.common.errors import DATA, DIVERGED, UserError
from llm.evaluate.stats import wilson
from llm.reason.config import RolloutConfig
from llm.reason.rollouts import Rollouts
from llm.train.task import Callback, Training

PROBED = 4  # sets of answers before the first update


def probe(rollouts: Rollouts) -> dict[str, float]:
    """The means of what is measured of PROBED sets of answers by the model as it is."""
    found = [rollouts.sample(number).measures for number in range(PROBED)]
    return {name: sum(each[name] for each in found) / PROBED for name in found[0]}


@dataclass
class Guards(Callback):
    """Refuses a start where most groups are dead, ends a run that has collapsed, and says why a loss is 0.

    A group is dead if its rewards are equal: then none of its answers has an advantage, and nothing can be learnt from
    it. Place it after the callback that adds the measures to the rows.
    """

    config: RolloutConfig
    max_dead: float
    chance: float  # the accuracy of guessing
    answers: int  # of the validation split, that `val_sampled` is the mean of
    say: Callable[[str], None]
    rollouts: Rollouts
    _said: bool = False

    def on_update(self, training: Training) -> None:
        """Say it when the first set has no gradient."""
        found = self.rollouts.measures
        if found["dead"] < 1 or self.config.kl or self._said:
            return
        self._said = True
        groups = self.config.problems_at_once
        self.say(
            f"update {training.history.step}: the loss is 0, since all {groups} groups are dead "
            f"({found['all_right']:.0%} all right, {found['all_wrong']:.0%} all wrong): where all {self.config.group} "
            "answers have the same reward, none is better than the others. Not said again; see `dead` in curve.csv"
        )

    def on_evaluation(self, training: Training) -> None:
        """Raise UserError if the start, or what became of the model, is hopeless."""
        rows = training.history.rows
        if len(rows) == 1:
            self._check_start(rows[0])
        elif why := collapsed(rows, self.answers, self.chance):
            key, fix = "lr", "lower it, to a half for example"
            if self.config.updates > 1 and self.config.clip is None:
                key, fix = "clip", "set it to [0.2, 0.2], or updates to 1"
            raise UserError(f"params.yaml: reason_rl.{key}", _told(why, rows), fix, DIVERGED)

    def _check_start(self, row: Mapping[str, Any]) -> None:
        if row["dead"] <= self.max_dead:
            return
        groups = PROBED * self.config.problems_at_once
        right, wrong = row["all_right"], row["all_wrong"]
        what = (
            f"{row['dead']:.0%} of {groups} groups are dead before the first update ({right:.0%} all right, "
            f"{wrong:.0%} all wrong), more than {self.max_dead:.0%}: there is little to learn from rewards"
        )
        fix = "take harder problems" if right > wrong else "teach it longer with reason_sft, or take easier problems"
        raise UserError("params.yaml: reason_rl.init_from", what, fix, DATA)


def collapsed(rows: Sequence[Mapping[str, Any]], answers: int, chance: float) -> str | None:
    """Why the rows of a curve are those of a model that has collapsed; None if they are not.

    `val_sampled`, each time the mean of as many `answers`, is below half of its best, by more than few answers vary. Or
    it is twice in a row no better than guessing although it was better at first, and the entropy has risen: in a run
    that learns, it may dip too, but the entropy falls.
    """
    accuracies = [row["val_sampled"] for row in rows]
    best, last = max(accuracies), accuracies[-1]
    if last < best / 2 and wilson(round(last * answers), answers)[1] < wilson(round(best * answers), answers)[0]:
        return f"sampled validation accuracy fell from {best:.3f} to {last:.3f}"
    lowest = [wilson(round(value * answers), answers)[0] for value in (accuracies[0], *accuracies[-2:])]
    risen = rows[-1]["entropy"] > rows[0]["entropy"]
    if risen and len(rows) > 2 and lowest[0] > chance >= max(lowest[1:]):
        return f"sampled validation accuracy fell from {accuracies[0]:.3f} to {last:.3f}, and guessing has {chance:.3f}"
    return None


def _told(why: str, rows: list[dict[str, Any]]) -> str:
    first, last = rows[0], rows[-1]
    seen = ", ".join(f"{name} {first[name]:.2f} -> {last[name]:.2f}" for name in ("reward", "dead", "entropy"))
    return f"the model collapsed by step {last['step']}: {why} ({seen})"
