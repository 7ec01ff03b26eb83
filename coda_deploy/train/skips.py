"""Images that had to be left out: told of once, and kept by name for the checkpoints; and those whose profile was."""

from __future__ import annotations

import json
from collections.abc import Mapping

from coda_deploy import distributed
from coda_deploy.data import TrainBatch
from coda_deploy.data.source import bad_image
from coda_deploy.train.report import Report
from coda_runtime.images import IgnoredProfiles


class Skips:
    """``reasons`` by name: what this process met, and after ``gather`` what every process did."""

    def __init__(self, report: Report, *, skip_bad: bool = True) -> None:
        """Raise ``DataError`` in ``note`` for the first one, unless ``skip_bad``."""
        self._skip_bad = skip_bad
        self.reasons: dict[str, str] = {}
        self._report = report
        self._own: dict[str, str] = {}
        self._ignored: dict[str, None] = {}  # in the order of their names' coming

    def note(self, batch: TrainBatch) -> TrainBatch:
        """Take up what was skipped while ``batch`` was made; gives the batch back."""
        if batch.skipped and not self._skip_bad:
            raise bad_image(batch.skipped[0])
        self._ignored |= dict.fromkeys(batch.profiles_ignored)
        found = {skipped.name: skipped.reason for skipped in batch.skipped}
        self._own |= found
        self._tell(found)
        return batch

    def gather(self) -> dict[str, str]:
        """Return ``reasons``, the same in every process; all must call it."""
        texts = distributed.gather_names([json.dumps(item) for item in self._own.items()])
        self._own = {}
        self._ignored |= dict.fromkeys(distributed.gather_names(list(self._ignored)))
        self._tell(dict(json.loads(text) for text in texts))
        return self.reasons

    def tell_ignored(self) -> None:
        """Tell of the images with a colour profile that was ignored: those of this process, of all up to ``gather``."""
        if self._ignored:
            ignored = IgnoredProfiles()
            ignored.add(next(iter(self._ignored)), len(self._ignored))
            self._report.say(f"warning: {ignored.warning()}")

    def restore(self, reasons: Mapping[str, str]) -> None:
        """Restore those that an earlier run has reported."""
        self.reasons |= reasons

    def _tell(self, found: Mapping[str, str]) -> None:
        for name, reason in found.items():
            if name not in self.reasons:
                self.reasons[name] = reason
                self._report.say(f"skipped {name}: {reason}")
