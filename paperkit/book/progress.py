"""pytest plugin of the runner: one line a notebook as it ends, failures in full at the end.

It stands in for pytest's own summary, which has no room for the name of a chapter.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest


def _say(config: pytest.Config, text: str) -> None:
    terminal: Any = config.pluginmanager.getplugin("terminalreporter")
    terminal.write_line(text)
    terminal.flush()


class _Lines:
    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.total = int(os.environ.get("PAPERKIT_NOTEBOOKS", "0"))
        self.failed: list[pytest.TestReport] = []
        self.ended = 0
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        self.ended += 1
        page = report.nodeid.split("::")[0].removesuffix(".ipynb")
        name = page.removeprefix("notebooks/")
        self.seconds[page] = round(report.duration, 1)
        if not report.passed:
            self.failed.append(report)
        outcome = "ok" if report.passed else "FAILED"
        count = f"[{self.ended:>{len(str(self.total))}}/{self.total}]"
        _say(self.config, f"{count} {name:<58} {report.duration:7.1f} s  {outcome}")

    def pytest_sessionfinish(self) -> None:
        for report in self.failed:
            _say(self.config, f"\n--- {report.nodeid} ---")
            _say(self.config, report.longreprtext)
        if "PAPERKIT_SECONDS" in os.environ:
            with open(os.environ["PAPERKIT_SECONDS"], "w", encoding="utf-8") as file:
                json.dump(self.seconds, file)


def pytest_configure(config: pytest.Config) -> None:
    """Report from the main process only; the workers of xdist send their results there."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Lines(config), "paperkit-lines")


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str]:
    """No dot for a test: the line says it."""
    return report.outcome, "", ""
