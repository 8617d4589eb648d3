"""Write the files of every case anew: ``python -m tests.golden.update``, then read the diff."""

from tests.golden.cases import CASES, DIRECTORY, expected, rendered


def main() -> None:
    """Make each case hold what the agent renders now."""
    for case in CASES:
        wanted, present = rendered(case), expected(case)
        for name in present.keys() - wanted.keys():
            (DIRECTORY / case / name).unlink()
        for name, content in wanted.items():
            if present.get(name) != content:
                (DIRECTORY / case / name).write_bytes(content)
                print(f"{case}/{name}")


if __name__ == "__main__":
    main()
