"""One row of the experiments: a training, or one way to evaluate it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, eq=False)  # each is itself: options are no key of a dict
class Run:
    """One training, or one way to evaluate it.

    Attributes:
        model: what it is, the field's term for it; options are no part of it.
        label: what a reader sees.
        section: where it stands in the tables, see `engine.records.SECTIONS`.
        options: of the training script, where they are not its or its preset's default.
        test: of the evaluation script: fill, probe, image_size, subsets; empty: as trained.
        teacher: a run that this one learns from.
        parts: runs that are evaluated together as one model.
        source: the run whose training this one evaluates in another way, maybe under another name.
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
        section: str = "ablation",
        teacher: Run | None = None,
        **options,
    ) -> Run:
        """The run with other options; an ablation unless it is said to be something else."""
        source = self.source and self.source.but(section=self.source.section, teacher=teacher, **options)
        return replace(
            self,
            model=model or self.model,
            label=label or self.label,
            section=section,
            options={**self.options, **options},
            teacher=teacher or self.teacher,
            source=source,
        )

    def tested(
        self, model: str | None = None, label: str | None = None, section: str | None = None, **how
    ) -> Run:
        """The same trained network, evaluated in another way."""
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
        """The training that this run evaluates."""
        return self.source or self

    def fits(self, wanted: str) -> bool:
        """Whether it is what `wanted` names: MODEL, or MODEL,OPTION=VALUE,...

        of the training or the evaluation.
        """
        model, *pairs = wanted.split(",")
        known = {**self.options, **{f"test_{key}": value for key, value in self.test.items()}}
        return model == self.model and all(
            str(known.get(key)) == value for key, _, value in (pair.partition("=") for pair in pairs)
        )

    def __str__(self) -> str:
        told = {**self.options, **{f"test_{key}": value for key, value in self.test.items()}}
        return ",".join([self.model, *(f"{key}={value}" for key, value in told.items())])


def distinct(runs) -> list[Run]:
    """The runs, in order, each training and evaluation once."""
    seen: dict = {}
    for run in runs:
        seen.setdefault(
            (
                run.model,
                repr(sorted(run.options.items())),
                repr(sorted(run.test.items())),
                str(run.teacher),
                run.parts and "parts",
            ),
            run,
        )
    return list(seen.values())
