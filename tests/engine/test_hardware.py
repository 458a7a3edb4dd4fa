"""What the machine says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from perpixel.engine import hardware


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("3000000", "1000000", 2_000_000), ("1000000", "3000000", 0), (str(2**62), "0", None), ("max", "0", None)],
)
def test_a_containers_limit_counts(
    limit: str, used: str, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/meminfo").is_file():
        pytest.skip("this system has no /proc/meminfo")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    found = hardware.find_hardware("cpu").memory_bytes
    assert found == free if free is not None else found > 2**20
