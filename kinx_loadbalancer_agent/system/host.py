"""What the host is doing: processor, memory, disks and network, as psutil measures them."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

CPU_SECONDS = 0.1


def sysctl(key: str) -> str:
    """Return the kernel setting *key* (sysctl(8)), '' where the kernel has none."""
    try:
        return Path("/proc/sys", *key.split(".")).read_text().strip()
    except OSError:
        return ""


def facts(cpu_seconds: float = CPU_SECONDS) -> dict[str, Any]:
    """Return the facts of the host, ready for JSON; sizes in bytes, counters since boot.

    cpu_seconds: how long the processors are watched; the call takes that long.
    """
    memory = psutil.virtual_memory()
    return {
        "cpu_percent": psutil.cpu_percent(cpu_seconds),
        "load": list(psutil.getloadavg()),
        "memory": {
            "total_bytes": memory.total,
            "available_bytes": memory.available,
            "used_bytes": memory.used,
            "used_percent": memory.percent,
        },
        "disk": list(_disks()),
        "net": [
            {
                "nic": name,
                "rx_bytes": counted.bytes_recv,
                "tx_bytes": counted.bytes_sent,
                "rx_packets": counted.packets_recv,
                "tx_packets": counted.packets_sent,
            }
            for name, counted in sorted(psutil.net_io_counters(pernic=True).items())
        ],
        "uptime_seconds": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }


def _disks() -> Iterator[dict[str, Any]]:
    """Yield what is mounted of each disk, and / whatever it is on; what nobody may see is not."""
    mounts = {part.device: part.mountpoint for part in reversed(psutil.disk_partitions())}
    for path in sorted({"/", *mounts.values()}):
        with suppress(OSError):
            usage = psutil.disk_usage(path)
            yield {
                "mount": path,
                "total_bytes": usage.total,
                "used_bytes": usage.used,
                "free_bytes": usage.free,
                "used_percent": usage.percent,
            }
