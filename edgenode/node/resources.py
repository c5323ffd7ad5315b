"""Measures what a node costs its machine: memory, and energy if the board has a sensor.

Energy sensors are files of Linux's sysfs, which are only read. They measure a whole processor or board, so other
programs count too. Without a sensor there is no figure, and no estimate.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NO_SENSOR = "no sensor"
_SYSFS = Path("/sys")
_SAMPLE_EVERY_S = 1.0
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")  # rails that feed all others, on the Jetsons that have one
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # <malloc.h>
_MOST_MMAP_THRESHOLD, _NEVER = 32 * 2**20, 2**31 - 1  # bytes. glibc refuses a higher mmap threshold


@dataclass(frozen=True)
class Usage:
    """The memory and energy that a node used.

    Attributes:
        joules_per_round: energy of the whole board or processor.
        power_sensor: the sensor that measures the energy, or why none does.
    """

    peak_memory_bytes: int | None
    joules_per_round: float | None
    power_sensor: str


class Meter(Protocol):
    """A source of energy figures. ``joules`` counts from its first sample."""

    source: str
    joules: float

    def sample(self, now_s: float) -> None:
        """Read it.

        Raises:
            OSError, ValueError: it cannot be read.
        """


class Rapl:
    """Energy counters of a processor's packages, in µJ. At full power they wrap around every few minutes."""

    def __init__(self, zones: Sequence[Path]) -> None:
        self.source = f"RAPL {', '.join(_text(zone / 'name') for zone in zones)}"
        self.joules = 0.0
        self._limits = {zone / "energy_uj": _number(zone / "max_energy_range_uj") for zone in zones}
        self._last: dict[Path, int] = {}

    def sample(self, now_s: float) -> None:
        """Read the counters. They must not wrap around twice between two samples."""
        for counter, limit in self._limits.items():
            value = _number(counter)
            used = value - self._last.get(counter, value)
            self.joules += (used if used >= 0 else used + limit) / 1e6
            self._last[counter] = value


class Ina3221:
    """Power rails of a board. Each shows its present mV and mA, so their product is integrated over time."""

    def __init__(self, rails: Sequence[tuple[str, Path, Path]]) -> None:
        self.source = f"INA3221 {', '.join(label for label, _, _ in rails)}"
        self.joules = 0.0
        self._rails = rails
        self._last: tuple[float, float] | None = None

    def sample(self, now_s: float) -> None:
        """Read the rails, and add the time since the last sample times the mean power of both (trapezoidal rule)."""
        watts = sum(_number(volts) * _number(amperes) for _, volts, amperes in self._rails) / 1e6
        if self._last is not None:
            then_s, before = self._last
            self.joules += (now_s - then_s) * (before + watts) / 2
        self._last = now_s, watts


def find_meter(sysfs: Path = _SYSFS) -> Meter | str:
    """The board's own meter, else the processor's, else the reason why there is none."""
    rails = [rail for chip in sorted(sysfs.glob("class/hwmon/hwmon*")) for rail in _rails(chip)]
    board = [rail for rail in rails if rail[0] in _WHOLE_BOARD]
    if chosen := board[:1] or rails:
        return Ina3221(chosen)
    zones = [zone for zone in sorted(sysfs.glob("class/powercap/intel-rapl:*")) if _is_package(zone)]
    try:
        for zone in zones:
            _number(zone / "energy_uj")
        return Rapl(zones) if zones else NO_SENSOR
    except (OSError, ValueError) as exc:
        return f"{NO_SENSOR} that can be read: {exc}"


class Sensors:
    """Samples the machine's energy meter, if it has one."""

    def __init__(self, sysfs: Path = _SYSFS) -> None:
        self._meter = find_meter(sysfs)
        self._reading = asyncio.Lock()

    async def watch(self) -> None:
        """Sample regularly, until cancelled or until the meter fails."""
        while not isinstance(self._meter, str):
            await self.sample()
            await asyncio.sleep(_SAMPLE_EVERY_S)

    async def sample(self) -> None:
        """Read the meter now, in a thread, because its bus may be slow. A meter that fails is not read again."""
        async with self._reading:
            if isinstance(self._meter, str):
                return
            try:
                await asyncio.to_thread(self._meter.sample, time.monotonic())
            except (OSError, ValueError) as exc:
                self._meter = f"{self._meter.source} failed: {exc}"

    def usage(self, rounds: int) -> Usage:
        """The usage, if the node has done ``rounds`` rounds in this process."""
        if isinstance(self._meter, str):
            return Usage(peak_memory_bytes(), None, self._meter)
        per_round = self._meter.joules / rounds if rounds and self._meter.joules else None
        return Usage(peak_memory_bytes(), per_round, self._meter.source)


def peak_memory_bytes() -> int | None:
    """The most resident memory that this process ever held. None if the system does not report it."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        found = None
    if found:  # not getrusage: on Linux it starts from the parent's peak
        return int(found[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, because every training step allocates the same buffers again.

    By default glibc returns large buffers to the kernel. Mapping them again, page by page, costs a tenth of ResNet-20's
    step, and a fifth of an exchange of 1 MB. Threads share one arena, so that what one of them has freed serves the
    others. Other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_ARENA_MAX, 1)


def _rails(chip: Path) -> list[tuple[str, Path, Path]]:
    """(label, file of millivolts, file of milliamperes) of each channel in use. Empty for another kind of chip."""
    try:
        if _text(chip / "name") != "ina3221":
            return []
    except OSError:
        return []
    rails = []
    for channel in (1, 2, 3):
        volts, amperes = chip / f"in{channel}_input", chip / f"curr{channel}_input"
        try:
            _number(volts), _number(amperes)
            rails.append((_text(chip / f"in{channel}_label"), volts, amperes))
        except (OSError, ValueError):  # switched off, or not connected
            continue
    return rails


def _is_package(zone: Path) -> bool:
    try:
        return _text(zone / "name").startswith("package")
    except OSError:
        return False


def _text(path: Path) -> str:
    return path.read_text().strip()


def _number(path: Path) -> int:
    return int(_text(path))
