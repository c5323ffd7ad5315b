"""Sensors read real files: a sysfs in a folder, with what boards have and what goes wrong there."""

from __future__ import annotations

import asyncio
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
        scratch.replace(folder / name)  # whoever reads meanwhile sees the one or the other
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


def test_joules_are_what_the_counter_has_counted_since_the_first_sample(tmp_path: Path) -> None:
    zone = rapl(tmp_path, energy=5_000_000)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Rapl)
    assert meter.source == "RAPL package-0"
    for energy, joules in ((5_000_000, 0.0), (7_500_000, 2.5), (7_500_000, 2.5), (8_000_000, 3.0)):
        written(zone, energy_uj=energy)
        meter.sample(0)
        assert meter.joules == pytest.approx(joules)


def test_packages_add_up_and_what_is_inside_of_them_does_not_count_twice(tmp_path: Path) -> None:
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
def test_a_counter_that_begins_again_loses_nothing(tmp_path: Path, used: list[int], start: int) -> None:
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


def test_the_rail_of_the_whole_board_is_taken_alone_wherever_it_is(tmp_path: Path) -> None:
    ina3221(tmp_path, 0, VDD_CPU_GPU_CV=(5000, 400), VDD_SOC=(5000, 200))
    ina3221(tmp_path, 1, VDD_IN=(5000, 1000))
    rapl(tmp_path)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.source == "INA3221 VDD_IN"


def test_without_such_a_rail_all_add_up_and_are_named(tmp_path: Path) -> None:
    ina3221(tmp_path, 0, VDD_GPU_SOC=(20_000, 100), VDD_CPU_CV=(20_000, 50))
    ina3221(tmp_path, 1, VIN_SYS_5V0=(5000, 400))
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.source == "INA3221 VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0"
    meter.sample(0.0)
    meter.sample(1.0)
    assert meter.joules == pytest.approx(2 + 1 + 2)


def test_a_channel_that_is_switched_off_and_a_chip_of_another_kind_are_passed_over(tmp_path: Path) -> None:
    chip = ina3221(tmp_path, 1, VDD_CPU=(5000, 100), VDD_GPU=(5000, 100))
    written(chip, in2_input="")
    written(tmp_path / "class/hwmon/hwmon0", name="coretemp", in1_label="x", in1_input=1, curr1_input=1)
    (tmp_path / "class/hwmon/hwmon2").mkdir()
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.source == "INA3221 VDD_CPU"


# --- no sensor


def test_a_machine_without_a_sensor_is_said_to_have_none(tmp_path: Path) -> None:
    written(tmp_path / "class/powercap/intel-rapl:0", name="psys")
    assert find_meter(tmp_path) == NO_SENSOR
    usage = Sensors(tmp_path).usage(10)
    assert (usage.joules_per_round, usage.power_sensor) == (None, "no sensor")


def test_a_sensor_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    zone = rapl(tmp_path)
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # refuses root too
    found = find_meter(tmp_path)
    assert isinstance(found, str)
    assert found.startswith("no sensor that can be read: ")
    assert "energy_uj" in found


async def test_a_sensor_that_fails_is_none_any_more_and_its_figures_are_dropped(tmp_path: Path) -> None:
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


async def test_watching_samples_at_once_and_ends_where_there_is_nothing(tmp_path: Path) -> None:
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


def test_peak_memory_grows_with_what_is_held_and_stays_when_it_is_gone() -> None:
    before = peak_memory_bytes()
    assert before is not None
    held = np.ones(before // 8 + 8_000_000)  # more than ever before
    after = peak_memory_bytes()
    assert after is not None
    size = held.nbytes
    assert after >= size > before
    del held
    assert (peak_memory_bytes() or 0) >= size
