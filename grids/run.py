"""Define one run of the experiments: a training, or one way to evaluate a training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, eq=False)  # without eq, a run can be a key of a dict although it holds dicts
class Run:
    """Describe one training, or one way to evaluate a training.

    Attributes:
        model: name of the method or network, without its options.
        label: name of the model in tables and figures.
        section: section of the tables in which the run is listed, see `engine.records.SECTIONS`.
        options: options of the training script that differ from its defaults and from the preset.
        test: options of the evaluation script (fill, probe, image_size, subsets). If there are none, the network is
            evaluated as it was trained.
        teacher: the run whose network teaches this network.
        parts: runs whose networks are evaluated together as one model.
        source: the run that is trained, if this run only evaluates the same network in another way.
    """

    model: str
    label: str
    section: str = "ablation"
    options: dict = field(default_factory=dict)
    test: dict = field(default_factory=dict)
    teacher: Run | None = None
    parts: tuple[Run, ...] = ()
    source: Run | None = None

    def but(
        self,
        model: str | None = None,
        label: str | None = None,
        section: str | None = None,
        teacher: Run | None = None,
        **options,
    ) -> Run:
        """Return a copy of this run in which the given values replace the old values.

        All other values stay, also the section. The options also change the runs in `parts`.
        """
        return replace(
            self,
            model=model or self.model,
            label=label or self.label,
            section=section or self.section,
            options={**self.options, **options},
            teacher=teacher or self.teacher,
            parts=tuple(part.but(**options) for part in self.parts),
            source=self.source and self.source.but(teacher=teacher, **options),
        )

    def tested(
        self, model: str | None = None, label: str | None = None, section: str | None = None, **how
    ) -> Run:
        """Return a run that evaluates the same trained network with the evaluation options `how`."""
        return replace(
            self,
            model=model or self.model,
            label=label or self.label,
            section=section or self.section,
            test={**self.test, **how},
            source=self.trained,
        )

    @property
    def trained(self) -> Run:
        """Return the run that trains the network: this run, or its `source`."""
        return self.source or self

    @property
    def words(self) -> list[str]:
        """Return the options as "OPTION=VALUE", and the options of the evaluation as "test_OPTION=VALUE"."""
        test = {f"test_{key}": value for key, value in self.test.items()}
        return [f"{key}={value}" for key, value in {**self.options, **test}.items()]

    def fits(self, pattern: str) -> bool:
        """Check whether the run matches `pattern`.

        A pattern is MODEL or MODEL,OPTION=VALUE,... with the options in any order.
        """
        model, *words = re.split(r",(?=\w+=)", pattern)  # a value may hold commas: widths=128,256
        return model == self.model and {*words} <= {*self.words}

    def __str__(self) -> str:
        return ",".join([self.model, *self.words])


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in order, without a run that has the same training and evaluation as an earlier run."""
    first: dict[tuple, Run] = {}
    for run in runs:
        first.setdefault((run.model, *sorted(run.words), str(run.teacher), bool(run.parts)), run)
    return list(first.values())


def against(reference: Run, variants: dict[str, Run]) -> list[tuple[str, Run, Run]]:
    """Return the rows (name, run, reference run) of an ablation table whose variants have the same reference."""
    return [(name, run, reference) for name, run in variants.items()]
