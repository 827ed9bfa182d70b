"""Runs of several files in order: which are one line of a figure, and which did the same work and compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from impasto.bench.result import Load, MixEntry, Result, Run

OF_THE_WORK = ("batch", "rate", "concurrency", "steps", "width", "height")
"""Settings that a load has too, as they change the work; all others change who does it."""
NOTE_LENGTH = 24
"""Of a file's note in a label."""


@dataclass(frozen=True)
class Workload:
    """What was asked of a system, apart from how long. Runs of equal workloads compare.

    `batch` is that of the only kind of request, None in a mix. `searched` says within which limit the highest rate was
    searched; then the rate is what came of it, and not asked.
    """

    scenario: str
    generator: str
    load: Load
    batch: int | None
    searched: str

    @classmethod
    def of(cls, run: Run) -> Workload:
        """The workload of a run."""
        load = dataclasses.replace(run.load, seconds=None, requests=None, seed=0)
        batch = load.mix[0].batch if len(load.mix) == 1 else None
        if (found := run.capacity) is None:
            return cls(run.scenario, run.generator, load, batch, "")
        searched = f"p{found.percentile:g} within {found.latency_limit_ms:g} ms"
        return cls(run.scenario, run.generator, dataclasses.replace(load, rate=None), batch, searched)

    @property
    def pace(self) -> dict[str, int | None]:
        """What makes the load heavier where the server sets the rate."""
        return {"batch": self.batch, "concurrency": self.load.concurrency}

    @property
    def family(self) -> Workload:
        """The same without what a curve runs over: the rate, or else the batch and the concurrency."""
        if self.load.rate is not None:
            return dataclasses.replace(self, load=dataclasses.replace(self.load, rate=0.0))
        mix = tuple(dataclasses.replace(kind, batch=1) for kind in self.load.mix)
        return dataclasses.replace(self, load=dataclasses.replace(self.load, mix=mix, concurrency=None), batch=None)

    @property
    def family_title(self) -> str:
        """Models, scenario and load generator."""
        mix = self.load.mix
        models = " and ".join(dict.fromkeys(kind.model for kind in mix))
        kinds = f"mix of {len(mix)} kinds" if len(mix) > 1 else _details(mix[0]) if mix else ""
        loadgen = "MLPerf LoadGen" if self.generator == "mlperf-loadgen" else ""
        parts = (models, kinds, self.scenario, self.arrivals, loadgen, "highest rate" if self.searched else "")
        return " · ".join(part for part in parts if part)

    @property
    def arrivals(self) -> str:
        """How requests arrive, where the scenario's name does not say it."""
        usual = {("single", "one-by-one"), ("server", "poisson"), ("offline", "at-once"), ("closed", "closed")}
        arrivals = self.load.arrivals
        return "" if (self.scenario, arrivals) in usual else f"{arrivals} arrivals"

    @property
    def title(self) -> str:
        """What tells it from others of its family."""
        load, paced = self.load, self.searched or self.load.rate is not None
        parts = [
            self.searched,
            f"{load.rate:.4g} requests/s" if load.rate is not None else "",
            f"{load.concurrency} at once" if load.concurrency is not None else "",
            f"batch {self.batch}" if self.batch is not None and (self.batch > 1 or not paced) else "",
        ]
        return ", ".join(part for part in parts if part) or self.scenario


def _details(kind: MixEntry) -> str:
    size = f"{kind.width}×{kind.height}" if kind.width and kind.height else ""
    return ", ".join(part for part in (f"{kind.steps} steps" if kind.steps else "", size) if part)


@dataclass(frozen=True)
class Series:
    """The runs in one file by one system with one set of settings: a colour, by `index`, in a family's figures.

    `label` tells it from the others there, `place` is its file's among all files.
    """

    index: int
    label: str
    place: int
    runs: Mapping[Workload, Run]


@dataclass(frozen=True)
class Family:
    """The workloads that a curve may run over, lightest first, and who did them."""

    title: str
    workloads: tuple[Workload, ...]
    series: tuple[Series, ...]


def families(results: Sequence[tuple[str, Result]]) -> tuple[Family, ...]:
    """What the files hold, in the order in which it first occurs.

    A file that has one series in a family has the same colour in all of those. Where the files hold several systems,
    each series is named by its own, and a system that has one series in a family has the same colour in all of those:
    no line must seem to be another system's.
    """
    systems = list(dict.fromkeys(run.system for _, result in results for run in result.runs))
    found: dict[Workload, dict[Attributes, dict[Workload, Run]]] = {}
    for place, (file, result) in enumerate(results):
        for run in result.runs:
            workload = Workload.of(run)
            attributes = (("place", str(place)), *_attributes(result, run), ("file", file))
            found.setdefault(workload.family, {}).setdefault(attributes, {})[workload] = run
    return tuple(_family(key.family_title, groups, systems) for key, groups in found.items())


Attributes = tuple[tuple[str, str], ...]
"""What makes a series, by name: what a reader looks for first comes first."""


def _family(title: str, groups: Mapping[Attributes, Mapping[Workload, Run]], systems: Sequence[str]) -> Family:
    attributes = [dict(key) for key in groups]
    places = [int(one["place"]) for one in attributes]
    several = len(systems) > 1
    owners = [systems.index(one["system"]) for one in attributes] if several else places
    indices = owners if len(set(owners)) == len(owners) else range(len(owners))
    rows = zip(indices, _labels(attributes, {"system"} if several else set()), places, groups.values(), strict=True)
    workloads = sorted({workload for runs in groups.values() for workload in runs}, key=_weight)
    return Family(title, tuple(workloads), tuple(Series(*row) for row in rows))


def _weight(workload: Workload) -> tuple[float, int, int]:
    return workload.load.rate or 0.0, workload.batch or 0, workload.load.concurrency or 0


def _attributes(result: Result, run: Run) -> Attributes:
    settings = [(name, str(value)) for name, value in sorted(run.settings.items()) if name not in OF_THE_WORK]
    machine = result.machine.title + (f" ({result.note[:NOTE_LENGTH]})" if result.note else "")
    return ("machine", machine), ("commit", result.commit[:9]), ("system", run.system), ("via", run.protocol), *settings


def _labels(attributes: Sequence[Mapping[str, str]], always: Set[str]) -> list[str]:
    """For each series what differs between them and what is `always` told, or the machine; files where that tells some
    not apart."""
    names = [
        name for name in dict.fromkeys(name for one in attributes for name in one) if name not in ("place", "file")
    ]
    differing = {name for name in names if len({one.get(name) for one in attributes}) > 1}
    telling = [name for name in names if name in differing | always] or names[:1]
    labels = [" · ".join(one[name] for name in telling if one.get(name)) for one in attributes]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} · {one['file']}" for label, one in zip(labels, attributes, strict=True)]
