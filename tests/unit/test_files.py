"""Writing files where others may write too."""

from pathlib import Path

from kinx_loadbalancer_agent.system import files


def test_a_draft_follows_no_link_that_somebody_planted(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    precious.chmod(0o600)
    (tmp_path / ".file.new").symlink_to(precious)

    files.write(tmp_path / "file", b"ours", mode=0o640)

    assert precious.read_text() == "precious"
    assert precious.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "file").read_text() == "ours"
