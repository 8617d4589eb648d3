"""Write the files of every case anew: ``python -m tests.golden.update``, then read the diff."""

from tests.golden import cases
from tests.golden.routing import cases as routing


def main() -> None:
    """Make each case hold what the agent renders now."""
    for found in (cases, routing):
        for case in found.CASES:
            wanted, present = found.rendered(case), found.expected(case)
            for name in present.keys() - wanted.keys():
                (found.DIRECTORY / case / name).unlink()
            for name, content in wanted.items():
                if present.get(name) != content:
                    (found.DIRECTORY / case / name).write_bytes(content)
                    print(f"{case}/{name}")


if __name__ == "__main__":
    main()
