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
        teacher: the run whose network teaches this network. It has the seed of this network, unless its options hold
            another "seed".
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
        return replace(self.but(model, label, section), test={**self.test, **how}, source=self.trained)

    @property
    def trained(self) -> Run:
        """Return the run that trains the network: this run, or its `source`."""
        return self.source or self

    @property
    def identity(self) -> tuple:
        """Return a value that is equal for runs with the same training and evaluation."""
        return self.model, *sorted(self.words), str(self.teacher), bool(self.parts)

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


Model = Run | dict[str, Run]  # one run, or a dict from a channel set to a run


def distinct(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in order, without a run that has the same training and evaluation as an earlier run."""
    first: dict[tuple, Run] = {}
    for run in runs:
        first.setdefault(run.identity, run)
    return list(first.values())


def remaining(tables: dict[str, list[tuple]], grids: dict[str, list[Run]]) -> list[Run]:
    """Return the runs of ablation tables that are in no grid.

    Args:
        tables: name of a group -> its rows, as `rows` returns them.
        grids: name of a grid -> its runs.
    """
    models = [model for rows in tables.values() for _, *models in rows for model in models]
    runs = distinct(
        run for model in models for run in (model.values() if isinstance(model, dict) else [model])
    )
    queued = {run.identity for runs in grids.values() for run in runs}
    return [run for run in runs if run.identity not in queued]


def against(reference: Run, variants: dict[str, Run]) -> dict[str, tuple[Run, Run]]:
    """Return a dict from the name of each variant to the tuple (run, reference run)."""
    return {name: (run, reference) for name, run in variants.items()}


def rows(
    reference: Model, variants: dict[str, Model | tuple[Model, Model]]
) -> list[tuple[str, Model, Model]]:
    """Return the rows of a table: tuples (name of the variant, model, reference model).

    Args:
        reference: reference of a variant that names no reference.
        variants: name of the variant -> model, or tuple (model, reference model).
    """
    return [
        (name, *(variant if isinstance(variant, tuple) else (variant, reference)))
        for name, variant in variants.items()
    ]
