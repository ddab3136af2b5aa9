import json
import platform
import struct
from pathlib import Path

import pytest

from hedgerow_devices import Profile, Readings, read_memory, throttle_reasons
from hedgerow_devices.heat import read_battery, read_temperature_c, read_throttle_word
from hedgerow_devices.kernel_files import cpu_features, read_int, read_text

MEMINFO = "MemTotal:        3884036 kB\nMemFree:          100000 kB\nMemAvailable:    2048000 kB\n"
PI4_CPU = (
    "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)


def test_memory_is_meminfo_in_mib(fake_root):
    memory = read_memory(fake_root({"proc/meminfo": MEMINFO}))
    assert (memory.total_mib, memory.available_mib) == (3793, 2000)


def test_old_kernel_without_memavailable_counts_free_memory(fake_root):
    memory = read_memory(fake_root({"proc/meminfo": "MemTotal: 2048 kB\nMemFree: 1024 kB\n"}))
    assert (memory.total_mib, memory.available_mib) == (2, 1)


@pytest.mark.parametrize(
    ("limit", "used"),
    [
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ],
)
def test_a_containers_limit_is_the_devices_memory(fake_root, limit, used):
    root = fake_root({"proc/meminfo": MEMINFO, limit: str(512 << 20), used: str(500 << 20)})
    memory = read_memory(root)
    assert (memory.total_mib, memory.available_mib) == (512, 12)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_no_limit_leaves_the_machines_memory(fake_root, limit):
    root = fake_root({"proc/meminfo": MEMINFO, "sys/fs/cgroup/memory.max": limit})
    assert read_memory(root).total_mib == 3793


def test_group_over_its_limit_has_nothing_left(fake_root):
    root = fake_root(
        {
            "proc/meminfo": MEMINFO,
            "sys/fs/cgroup/memory.max": str(1 << 20),
            "sys/fs/cgroup/memory.current": str(2 << 20),
        }
    )
    assert read_memory(root).available_mib == 0


def test_hottest_processor_zone_wins_over_other_zones(fake_root):
    root = fake_root(
        {
            "sys/class/thermal/thermal_zone0/temp": "91000\n",
            "sys/class/thermal/thermal_zone0/type": "battery\n",
            "sys/class/thermal/thermal_zone1/temp": "61250\n",
            "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone2/temp": "48000\n",
            "sys/class/thermal/thermal_zone2/type": "soc-thermal\n",
        }
    )
    assert read_temperature_c(root) == 61.25


def test_zone_0_counts_when_no_zone_is_named_after_a_processor(fake_root):
    root = fake_root(
        {
            "sys/class/thermal/thermal_zone0/temp": "55000",
            "sys/class/thermal/thermal_zone1/temp": "77000",
        }
    )
    assert read_temperature_c(root) == 55.0


@pytest.mark.parametrize("broken", ["-274000", "2147483647", "", "hot"])
def test_broken_sensor_tells_no_temperature(fake_root, broken):
    root = fake_root({"sys/class/thermal/thermal_zone0/temp": broken})
    assert read_temperature_c(root) is None


def test_throttle_word_from_the_kernel_file_is_hexadecimal(fake_root):
    root = fake_root({"sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n"})
    assert read_throttle_word(root, firmware=lambda: "throttled=0x0") == 0x50005


@pytest.mark.parametrize(
    ("answer", "word"),
    [("throttled=0x50005\n", 0x50005), ("throttled=0x0", 0), ("error=2", None), (None, None)],
)
def test_throttle_word_from_the_firmware_command(fake_root, answer, word):
    assert read_throttle_word(fake_root({}), firmware=lambda: answer) == word


def test_throttle_reasons_are_of_now_only():
    assert throttle_reasons(0xF0000) == ()
    assert throttle_reasons(None) == ()
    assert throttle_reasons(0b1010) == ("frequency capped", "soft temperature limit")


def test_emptiest_own_battery_counts(fake_root):
    supplies = {
        "AC/type": "Mains",
        "BAT0/type": "Battery",
        "BAT0/capacity": "64",
        "BAT0/status": "Charging",
        "BAT1/type": "Battery",
        "BAT1/capacity": "15",
        "BAT1/status": "Discharging",
        "mouse/type": "Battery",
        "mouse/capacity": "3",
        "mouse/status": "Discharging",
        "mouse/scope": "Device",
    }
    root = fake_root({f"sys/class/power_supply/{name}": f"{text}\n" for name, text in supplies.items()})
    assert read_battery(root) == (15.0, True)


def test_no_battery_is_none(fake_root):
    assert read_battery(fake_root({"sys/class/power_supply/AC/type": "Mains"})) is None


def test_cpu_features_of_arm_and_x86(fake_root):
    assert cpu_features(fake_root({"proc/cpuinfo": PI4_CPU})) == {"fp", "asimd", "evtstrm", "crc32", "cpuid"}
    assert cpu_features(fake_root({"proc/cpuinfo": "flags\t\t: fpu sse2\n"})) == {"fpu", "sse2"}
    assert cpu_features(fake_root({"proc/cpuinfo": "nothing"})) == frozenset()


def test_kernel_files_never_raise(tmp_path: Path):
    assert read_text(tmp_path) is None  # a folder
    assert read_text(tmp_path / "absent") is None
    assert read_int(tmp_path / "absent") is None
    (tmp_path / "bytes").write_bytes(b"\xff\xfe12\x00")
    assert read_int(tmp_path / "bytes") is None


def test_kernel_file_is_read_up_to_its_cap(tmp_path: Path):
    (tmp_path / "endless").write_bytes(b"a" * 1_000_000)
    assert len(read_text(tmp_path / "endless") or "") == 256 * 1024


def test_profile_of_a_raspberry_pi(fake_root):
    root = fake_root(
        {
            "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00",
            "proc/meminfo": MEMINFO,
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        }
    )
    profile = Profile.read(root)
    assert profile.machine == "Raspberry Pi 4 Model B Rev 1.4"
    assert profile.os == "Debian GNU/Linux 13 (trixie)"
    assert profile.ram_mib == 3793
    assert profile.arch == platform.machine()
    assert profile.bits == struct.calcsize("P") * 8
    assert profile.cores >= 1


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("", 8), ("1 0", 8)]
)
def test_a_containers_quota_bounds_the_cores(fake_root, monkeypatch, quota, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    root = fake_root({"sys/fs/cgroup/cpu.max": quota})
    assert Profile.read(root).cores == cores
    assert Readings.take(root).cores == cores


def test_machine_falls_back_to_the_cpuinfo(fake_root):
    assert Profile.read(fake_root({"proc/cpuinfo": PI4_CPU})).machine == "Raspberry Pi 4 Model B Rev 1.4"


def test_profile_of_an_empty_tree_is_json_scalars(fake_root):
    told = Profile.read(fake_root({"proc/device-tree/model": "x" * 500})).to_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["machine"] == "x" * 64
    assert told["ram_mib"] is None
    assert set(told) == {"machine", "arch", "bits", "cores", "ram_mib", "os", "python"}


def test_readings_of_an_empty_tree_know_only_cores_and_disk(fake_root, tmp_path: Path):
    readings = Readings.take(fake_root({}), directory=tmp_path / "not" / "made" / "yet")
    assert readings == Readings(cores=readings.cores, disk_free_mib=readings.disk_free_mib)
    assert readings.disk_free_mib is not None
    assert readings.cores >= 1


def test_readings_gather_every_probe(fake_root):
    root = fake_root(
        {
            "proc/meminfo": MEMINFO,
            "proc/loadavg": "0.52 0.58 0.59 1/467 12345\n",
            "sys/class/thermal/thermal_zone0/temp": "48312",
            "sys/class/power_supply/BAT0/type": "Battery",
            "sys/class/power_supply/BAT0/capacity": "101",
            "sys/class/power_supply/BAT0/status": "Discharging",
        }
    )
    readings = Readings.take(root, firmware=lambda: "throttled=0x4")
    assert readings.temperature_c == 48.312
    assert readings.throttled == 4
    assert readings.available_mib == 2000
    assert readings.load == 0.52
    assert readings.battery == 100.0
    assert readings.discharging


def test_real_machine_can_be_read():
    readings = Readings.take()
    assert readings.available_mib is not None
    assert readings.available_mib > 0
    assert Profile.read().ram_mib >= readings.available_mib
