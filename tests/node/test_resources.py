"""Sensors read real files: a sysfs in a folder, as boards have it, failures included."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgenode.node.resources import NO_SENSOR, Ina3221, Rapl, Sensors, find_meter, peak_memory_bytes

LIMIT = 262_143_328_850  # µJ, of a real processor


def written(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        scratch = folder / f".{name}"
        scratch.write_text(f"{content}\n")
        scratch.replace(folder / name)  # a concurrent reader sees the old file or the new one
    return folder


def rapl(sysfs: Path, zone: str = "intel-rapl:0", name: str = "package-0", energy: int = 0, limit: int = LIMIT) -> Path:
    return written(sysfs / "class/powercap" / zone, name=name, energy_uj=energy, max_energy_range_uj=limit)


def ina3221(sysfs: Path, chip: int = 0, **rails: tuple[int, int]) -> Path:
    """A chip with (mV, mA) on each rail."""
    folder = written(sysfs / f"class/hwmon/hwmon{chip}", name="ina3221")
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        written(folder, **{f"in{channel}_label": label, f"in{channel}_input": millivolts})
        written(folder, **{f"curr{channel}_input": milliamperes})
    return folder


# --- RAPL


def test_joules_count_from_the_first_sample(tmp_path: Path) -> None:
    zone = rapl(tmp_path, energy=5_000_000)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Rapl)
    assert meter.source == "RAPL package-0"
    for energy, joules in ((5_000_000, 0.0), (7_500_000, 2.5), (7_500_000, 2.5), (8_000_000, 3.0)):
        written(zone, energy_uj=energy)
        meter.sample(0)
        assert meter.joules == pytest.approx(joules)


def test_packages_add_up_and_their_subzones_do_not_count(tmp_path: Path) -> None:
    first, second = rapl(tmp_path), rapl(tmp_path, "intel-rapl:1", "package-1")
    inside, whole = rapl(tmp_path, "intel-rapl:0:0", "core"), rapl(tmp_path, "intel-rapl:2", "psys")
    meter = find_meter(tmp_path)
    assert isinstance(meter, Rapl)
    assert meter.source == "RAPL package-0, package-1"
    meter.sample(0)
    for zone, energy in ((first, 1_000_000), (second, 2_000_000), (inside, 900_000), (whole, 9_000_000)):
        written(zone, energy_uj=energy)
    meter.sample(1)
    assert meter.joules == pytest.approx(3.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(used=st.lists(st.integers(0, LIMIT - 1), min_size=1, max_size=8), start=st.integers(0, LIMIT - 1))
def test_a_counter_that_wraps_around_loses_nothing(tmp_path: Path, used: list[int], start: int) -> None:
    zone = rapl(tmp_path, energy=start)
    meter = Rapl([zone])
    meter.sample(0)
    for total in np.cumsum(used):
        written(zone, energy_uj=(start + int(total)) % LIMIT)
        meter.sample(0)
    assert meter.joules == pytest.approx(sum(used) / 1e6)


# --- INA3221


def test_power_is_integrated_over_time(tmp_path: Path) -> None:
    chip = ina3221(tmp_path, VDD_IN=(5000, 1000))
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    meter.sample(100.0)
    assert meter.joules == 0
    meter.sample(102.0)
    assert meter.joules == pytest.approx(2 * 5.0)
    written(chip, curr1_input=3000)  # 15 W now: 10 W on average since then
    meter.sample(103.0)
    assert meter.joules == pytest.approx(10 + 10)


def test_a_whole_board_rail_replaces_all_other_sensors(tmp_path: Path) -> None:
    ina3221(tmp_path, 0, VDD_CPU_GPU_CV=(5000, 400), VDD_SOC=(5000, 200))
    ina3221(tmp_path, 1, VDD_IN=(5000, 1000))
    rapl(tmp_path)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.source == "INA3221 VDD_IN"


def test_without_a_whole_board_rail_all_rails_add_up(tmp_path: Path) -> None:
    ina3221(tmp_path, 0, VDD_GPU_SOC=(20_000, 100), VDD_CPU_CV=(20_000, 50))
    ina3221(tmp_path, 1, VIN_SYS_5V0=(5000, 400))
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.source == "INA3221 VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0"
    meter.sample(0.0)
    meter.sample(1.0)
    assert meter.joules == pytest.approx(2 + 1 + 2)


def test_unused_channels_and_other_chips_are_ignored(tmp_path: Path) -> None:
    chip = ina3221(tmp_path, 1, VDD_CPU=(5000, 100), VDD_GPU=(5000, 100))
    written(chip, in2_input="")
    written(tmp_path / "class/hwmon/hwmon0", name="coretemp", in1_label="x", in1_input=1, curr1_input=1)
    (tmp_path / "class/hwmon/hwmon2").mkdir()
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.source == "INA3221 VDD_CPU"


# --- no sensor


def test_a_machine_without_a_sensor_reports_none(tmp_path: Path) -> None:
    written(tmp_path / "class/powercap/intel-rapl:0", name="psys")
    assert find_meter(tmp_path) == NO_SENSOR
    usage = Sensors(tmp_path).usage(10)
    assert (usage.joules_per_round, usage.power_sensor) == (None, "no sensor")


def test_an_unreadable_sensor_is_named(tmp_path: Path) -> None:
    zone = rapl(tmp_path)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # refuses root too
    found = find_meter(tmp_path)
    assert isinstance(found, str)
    assert found.startswith("no sensor that can be read: ")
    assert "energy_uj" in found


async def test_a_failed_sensor_is_named_and_its_figures_dropped(tmp_path: Path) -> None:
    zone = rapl(tmp_path)
    sensors = Sensors(tmp_path)
    await sensors.sample()
    written(zone, energy_uj=4_000_000)
    await sensors.sample()
    assert sensors.usage(2).joules_per_round == pytest.approx(2.0)
    assert sensors.usage(0).joules_per_round is None
    written(zone, energy_uj="")
    await sensors.sample()
    usage = sensors.usage(2)
    assert usage.joules_per_round is None
    assert usage.power_sensor.startswith("RAPL package-0 failed: ")


async def test_watch_samples_at_once_and_ends_without_a_sensor(tmp_path: Path) -> None:
    await asyncio.wait_for(Sensors(tmp_path).watch(), 1)
    zone = rapl(tmp_path)
    sensors = Sensors(tmp_path)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        watching = group.create_task(sensors.watch())
        while sensors.usage(1).joules_per_round is None:
            await asyncio.sleep(0.01)
            written(zone, energy_uj=int((zone / "energy_uj").read_text()) + 1000)
            await sensors.sample()
        watching.cancel()


# --- memory


@pytest.mark.slow
def test_peak_memory_grows_and_never_shrinks() -> None:
    before = peak_memory_bytes()
    assert before is not None
    held = np.ones(before // 8 + 8_000_000)  # more than ever before
    after = peak_memory_bytes()
    assert after is not None
    size = held.nbytes
    assert after >= size > before
    del held
    assert (peak_memory_bytes() or 0) >= size


# allocates and frees 64 MiB a few times, as a training step does, and prints the page faults of a second thread
_PAGE_FAULTS = """
import resource
from threading import Thread
from edgenode.node.resources import keep_freed_memory
{call}
def touch():
    for _ in range(5):
        [bytearray(8 * 2**20) for _ in range(8)]
def in_a_thread():
    thread = Thread(target=touch)
    thread.start()
    thread.join()
in_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
in_a_thread()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    script = _PAGE_FAULTS.format(call=call)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these thresholds")
def test_freed_memory_is_kept_for_all_threads() -> None:
    assert page_faults("keep_freed_memory()") < 0.1 * page_faults("")
